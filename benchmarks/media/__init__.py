"""What the one decoder learns of images, sound and video on two CPU cores: a script for each kind, three seeds a row.

    python -m benchmarks.media.fashion_decoder --data=DIR [--seeds=3] [--dry_run]

DIR has the public sets as they were published (`benchmarks/media/data.py` says which files). Each script trains by the
commands of gpt4x alone, from scratch, codecs included, and no test file is in any training. `peer` is the figure that
the goal is set by: what a plain method reaches on the same files. `benchmarks/media/README.md` has what was tried, and
what did not pay.
"""
