"""Objects of JSON, one on each line, and what is wrong with a line that holds none."""

from collections.abc import Callable, Iterable, Iterator
import json
from typing import Any, TypeVar

from gpt4x.data.text_files import shown

T = TypeVar("T")


def objects(path: str, lines: Iterable[bytes], make: Callable[[str, dict[str, Any]], T], bad: Callable[[str], None],
            example: str) -> Iterator[T]:
  """What is made of (PATH:LINE, object) of each line; `bad` is called where it is none, or `make` has a ValueError."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    place = f"{path}:{number}"
    try:
      given = json.loads(line.decode("utf-8-sig").strip())
      if not isinstance(given, dict):
        raise ValueError(f"not a JSON object such as {example} (but of type {type(given).__name__}): correct it")
      made = make(place, given)
    except (ValueError, RecursionError) as error:
      bad(f"{shown(place)}: {_reason(error, example)}")
    else:
      yield made


def _reason(error: Exception, example: str) -> str:
  if isinstance(error, json.JSONDecodeError):
    return f"not a JSON object such as {example} ({error.msg} at column {error.colno}): correct it"
  if isinstance(error, UnicodeDecodeError):
    return f"not UTF-8 at byte {error.start} of the line: convert the file"
  if isinstance(error, UnicodeEncodeError):
    return "half a surrogate pair, which is no text: correct it"
  return "too many levels: correct it" if isinstance(error, RecursionError) else str(error)
