"""Scripts that measure what a model gains by looking things up; each says in its first lines what its rows are."""
