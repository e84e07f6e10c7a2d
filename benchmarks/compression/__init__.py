"""What smaller and exported models cost and keep: a script for each kind, such as

    python -m benchmarks.compression.exports [--rounds=N]
"""
