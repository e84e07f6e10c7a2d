"""Checkpoints: saving, restoring, and surviving damage.

    manager.py        when to save, what to keep
    reader.py         which checkpoint to restore
    frozen_models.py  models that an objective is given: which checkpoint of each, and its parameters
    integrity.py      the record of a checkpoint, with the checksums of its files
    layout.py         the names of leaves, and the Orbax trees they lie in
    compatibility.py  what may differ between a checkpoint and the state that is read from it
    quiet.py          what libraries print of a save that fails, which is kept from the user
    buckets.py        Orbax in gs:// and s3://
    aside.py          the renaming of checkpoints that a run is not to continue from
"""
