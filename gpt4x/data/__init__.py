"""Corpora, vocabularies and the input pipeline."""
