"""Social security numbers of the United States, as they are written: 123-45-6789."""

from collections.abc import Iterator

from gpt4x.preparation.personal_data.spans import library, matches, Span, stands_alone

_PATTERN = r"[0-9]{3}-[0-9]{2}-[0-9]{4}"


def find(text: str) -> Iterator[Span]:
  """Numbers that may be given out: no area 000, 666 or 900 to 999, no group 00, no serial 0000, none of advertising."""
  for match in matches(_PATTERN, text):
    start, end = match.span()
    if stands_alone(text, start, end, ".:-/") and library("stdnum.us.ssn", "python-stdnum").is_valid(text[start:end]):
      yield Span(start, end, "ssn")
