"""Steps that compare all documents with each other.

    join.py         what such a step is
    exact.py        whole texts
    lines.py        lines and paragraphs
    substrings.py   runs of words
    near.py         texts that have most of their n-grams in common
    pictures.py     pictures that look alike
    hashing.py      hashes of texts, words and runs of words
    matching.py     equal keys, and pairs, among the documents of all shards
"""
