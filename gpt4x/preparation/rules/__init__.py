"""Rules: each looks at one document by itself, and keeps it, changes it or drops it.

A rule is a frozen dataclass of its parameters, known to gin by its name. FineWeb's order of them is Language,
GopherRepetition, GopherQuality, C4 without its terminal punctuation, FineWeb (Penedo et al. 2024, arXiv:2406.17557).
"""
