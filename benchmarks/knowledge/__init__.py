"""Scripts that measure what models know of a knowledge graph; each says in its first lines what its rows are."""
