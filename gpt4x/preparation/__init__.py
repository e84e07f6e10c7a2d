"""Preparing data: from crawls, dumps, books and media folders to shards of documents that train.

The path of a document: `sources/` read it from a shard of the input, rules keep it, change it or drop it one by one,
joins (duplicates) compare it with all others, and the shard is written with what was dropped beside it.

    document.py       a document, and why one is dropped
    sources/          files to documents
    extraction.py     HTML and wiki markup to text, in a process that can be killed (killable.py)
    rules/            one document at a time
    media_rules.py    images and sounds with their captions
    personal_data/    what is found of persons, and the tags that take its place
    contamination.py  what documents have of evaluations
    duplicates/       among all documents: exact, lines, near, substrings, pictures
    pipeline.py       the steps that gin puts together
    work.py           the steps as stages, each a list of tasks from files to files
    engines.py        runs the tasks of a stage: a pool of this machine's, or Apache Beam
    counts.py         what was kept and dropped, by what
    statistics.py     who is spoken of in what was kept
    report.py         both, for a person to read
"""
