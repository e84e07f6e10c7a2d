"""Dumps of Wikipedia and of other wikis (MediaWiki's XML export), compressed or not, in one stream or several."""

from collections.abc import Callable, Iterator
import types
from typing import BinaryIO
from xml.etree import ElementTree

from gpt4x.data.text_files import shown
from gpt4x.errors import one_line
from gpt4x.preparation.document import Document
from gpt4x.preparation.sources.opening import unpacked_file


def read(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None]) -> Iterator[Document]:
  """Yields the articles of a dump as NAME:PAGE, with their markup as `content`, and "title", "id" and "date".

  Pages count from 1. Those of other namespaces and redirects are left out; the last revision counts. Nothing is
  read behind the place where the XML is damaged.
  """
  number = 0
  with unpacked_file(name, opened, bad, lambda: f" behind page {number:,}") as file:
    try:
      # Some of what is there at a time, as `read` would lose what lies just before damage.
      parts = types.SimpleNamespace(read=file.read1)
      events = ElementTree.iterparse(parts, events=("start", "end"))
      _, root = next(events)
      for event, element in events:
        if event == "end" and element.tag.rpartition("}")[2] == "page":
          number += 1
          if document := _article(element, f"{name}:{number}"):
            yield document
          root.clear()  # Or all pages stay in memory.
    except ElementTree.ParseError as error:
      bad(f"{shown(name)} is no XML behind page {number:,} ({one_line(error)}): copy it again")


def _article(page: ElementTree.Element, name: str) -> Document | None:
  space = {"": page.tag.rpartition("}")[0].removeprefix("{")}  # Has the version of the export's format.
  field = lambda element, tag: (element.findtext(tag, "", space) or "").strip()
  revisions = page.findall("revision", space)
  if not revisions or field(page, "ns") != "0" or page.find("redirect", space) is not None or (
      field(revisions[-1], "model") not in ("", "wikitext")):
    return None
  known = {"content_type": "text/x-wiki", "title": field(page, "title"), "id": field(page, "id"),
           "date": field(revisions[-1], "timestamp")}
  content = (revisions[-1].findtext("text", "", space) or "").encode()
  return Document(name, content=content, fields={key: value for key, value in known.items() if value})
