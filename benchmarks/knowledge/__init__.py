"""Scripts that measure objectives and knowledge; each says in its first lines what its rows are."""
