"""Checkpoints: saving, restoring, and what damage they survive.

    manager.py    when to save, what to keep, which checkpoint to restore
    integrity.py  the record of a checkpoint: checksums, and what they say of its files
    layout.py     the names of leaves, and the Orbax trees that they lie in
"""
