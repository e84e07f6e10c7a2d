"""JSON lines, and whole JSON: objects with a text and other fields."""

from collections.abc import Callable, Iterator
import json
import re
from typing import Any, BinaryIO

from gpt4x.data import json_lines
from gpt4x.data.text_files import shown
from gpt4x.errors import one_line
from gpt4x.preparation.decoding import lines_unified
from gpt4x.preparation.document import Document
from gpt4x.preparation.sources.opening import buffered, unpacked_file

_LIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_NAMED_LIST = re.compile(r"\.json(?:\.\w+)?$", re.IGNORECASE)  # A line that begins so is a mistake in JSON lines.


def read(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None], field: str = "text"
         ) -> Iterator[Document]:
  """Yields the objects of a file, compressed or not, as NAME:LINE, or as NAME:PLACE of a list that the file is.

  The text is what `field` has; all other fields are kept. `bad` is called about each line that is no such object.
  """
  example = f'{{"{field}": "..."}}'

  def document(place: str, record: dict[str, Any]) -> Document:
    text = record.pop(field, None)
    if not isinstance(text, str):
      what = f"is of type {type(text).__name__}" if text is not None else "is missing"
      raise ValueError(f'its "{field}" {what}: write it as {example}, or name the field that has the text')
    text.encode()  # JSON can spell half a surrogate pair, which is no text.
    return Document(place, lines_unified(text), fields=record)

  last = 0

  def lines(file: BinaryIO) -> Iterator[bytes]:
    nonlocal last
    for last, line in enumerate(file, 1):  # noqa: B007
      yield line

  with unpacked_file(name, opened, bad, lambda: f" behind line {last:,}") as file:
    if _LIST.match(buffered(file).peek(1)) and _NAMED_LIST.search(name):
      yield from _listed(name, file.read(), document, bad)
    else:
      yield from json_lines.objects(name, lines(file), document, bad, example)


def _listed(name: str, data: bytes, document: Callable[[str, dict[str, Any]], Document], bad: Callable[[str], None]
            ) -> Iterator[Document]:
  try:
    records = json.loads(data.decode("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    bad(f"{shown(name)} begins as a list and is no JSON ({one_line(error)}): correct it, or write an object a line")
    return
  for number, record in enumerate(records, 1):
    try:
      if not isinstance(record, dict):
        raise ValueError(f"no JSON object, but of type {type(record).__name__}: correct it")
      made = document(f"{name}:{number}", record)
    except ValueError as error:
      bad(f"{shown(name)}:{number}: {one_line(error)}")
    else:
      yield made
