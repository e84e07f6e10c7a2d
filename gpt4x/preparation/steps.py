"""All steps, so that gin files can name them without an import."""

from gpt4x.preparation import pipeline, statistics  # noqa: F401
from gpt4x.preparation.duplicates import exact, lines, near, substrings  # noqa: F401
from gpt4x.preparation.rules import (  # noqa: F401
  c4,
  fineweb,
  gopher,
  gutenberg,
  language,
  quality,
  repair,
  where,
  word_lists,
)
