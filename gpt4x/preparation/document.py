"""A document on its way through the steps, and why one does not arrive."""

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class Document:
  """One document.

  Attributes:
    name: where it was read, "FILE:RECORD"; no two of an input have the same.
    text: with "\\n" as the only line end; empty before it is extracted.
    content: what the text is to be extracted from, such as HTML.
    fields: what is known of it, in JSON's types, such as "url", "content_type", "language"; written beside the text.
    folder: where a path in a field counts from; not written, so that a copy of the input gives the same output.
  """

  name: str
  text: str = ""
  content: bytes = b""
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  folder: str = ""

  def path(self, field: str) -> str | None:
    """The file that a field names; None if it names none."""
    named = self.fields.get(field)
    return None if named is None else os.path.join(self.folder, str(named))

  def with_text(self, text: str, **fields: Any) -> "Document":
    """The same document with another text, and with further fields."""
    return dataclasses.replace(self, text=text, fields={**self.fields, **fields})


@dataclasses.dataclass(frozen=True)
class Dropped:
  """Why a document is dropped.

  Attributes:
    reason: in small letters and underscores, such as "mean_word_length"; counted by it.
    value: the figure that was too large or too small.
    match: the name of the document, or the item, that it is too like.
  """

  reason: str
  value: float | str | None = None
  match: str | None = None


# A rule is a pure function of a document: by its arguments alone, on any machine. A class of rules is a frozen
# dataclass of its parameters with `__call__`, registered with gin; it can be pickled, and what it loads it loads when
# first called. `files_read()` lists the files that it loads, if these are not those that its parameters name: what is
# in them tells one preparation from another.
Rule = Callable[[Document], Document | Dropped]
