"""Scripts that measure the preparation of data; each says in its first lines what its rows are."""
