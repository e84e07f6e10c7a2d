"""Preparing data: speed on one core beside the tools that others use, and what comes out against what is known.

Peers are in environments of their own (`--peer=PYTHON`, the interpreter of one with datatrove and spacy, with which it
cuts words unless told otherwise; `--dolma=PYTHON`), and take turns with ours on the same text; each side has one core.
The scripts of this folder say in their first lines what their rows are. Two workers were 1.63 times one with 400
documents, where starting counts for more, and 1.77 times with 1,600.
"""
