"""The same experiments on unmodified upstream t5x, which is optional; docs/t5x.md says what is mended, what remains."""
