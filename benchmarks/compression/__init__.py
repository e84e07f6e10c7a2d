"""What smaller models and fewer bits cost and save: a script for each, `python -m benchmarks.compression.NAME`."""
