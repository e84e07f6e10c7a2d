"""Preparing data: scripts that measure what `gpt4x prepare` is made of; each says in its first lines what its rows are."""
