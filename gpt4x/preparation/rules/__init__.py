"""Rules: each looks at one document by itself, and keeps it, changes it or drops it.

A rule is a frozen dataclass of its parameters, known to gin by its name. FineWeb's order of them is Language,
GopherRepetition, GopherQuality, C4 without its terminal punctuation, FineWeb (Penedo et al. 2024, arXiv:2406.17557).

They decide as datatrove's do (`benchmarks/preparation/rules.py`) but for these:

    words              what blanks separate. There they are spaCy's, each mark is one, and so fewer have a letter.
    lines              end at "\\n" alone, and blank ones are none. There other characters end them too, and shares of
                       bullets and ellipses are of all lines.
    GopherQuality      stop words in any case; there in small letters.
    GopherRepetition   shares of characters without blanks, and an n-gram that occurs once repeats nothing. There the
                       text's blanks count, and the most frequent n-gram of a short text may occur once.
    C4                 by the paper, "{" and "lorem ipsum" drop a page wherever they stand; no line ends in "'"; a page
                       has at most `max_characters`. There sentences are spaCy's.
    FineWeb            lines end in the five marks that FineWeb was made with; there in those of many scripts, and in
                       no quotes.
"""
