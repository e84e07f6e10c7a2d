"""Preparing data: speed on one core beside the tools that others use, and what comes out against what is known.

Peers are in environments of their own (`--peer=PYTHON`, the interpreter of one with `pip install
'datatrove[processing]'`, or dolma), and take turns with ours on the same text; each side has one core. The scripts of
this folder say in their first lines what their rows are.
"""
