"""All steps, so that gin files can name them without an import."""

from gpt4x.preparation import pipeline  # noqa: F401
from gpt4x.preparation.duplicates import exact, lines, near, substrings  # noqa: F401
