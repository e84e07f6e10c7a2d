"""Scripts that measure fine-tuning; each says in its first lines what its rows are."""
