"""Smaller models of larger ones: trees of parameters to trees of parameters, and the objects that lie in them."""
