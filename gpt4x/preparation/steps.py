"""All steps, so that gin files can name them without an import."""

from gpt4x.preparation import contamination, extraction, media_rules, pipeline, statistics  # noqa: F401
from gpt4x.preparation.duplicates import exact, lines, near, pictures, substrings  # noqa: F401
from gpt4x.preparation.personal_data import rule  # noqa: F401
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
