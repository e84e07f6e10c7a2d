"""Weights in and out of other formats."""
