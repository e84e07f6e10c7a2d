"""Preparing data: scripts that measure the parts of `gpt4x prepare`; each says in its first lines what its rows are."""
