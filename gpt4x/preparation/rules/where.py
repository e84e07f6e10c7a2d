"""Documents chosen by a field that a step before wrote."""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import gin

from gpt4x.errors import one_line, refuse, require, UserError
from gpt4x.preparation.document import Document, Dropped


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Where:
  """Keeps the documents whose field is within bounds, or among values; the reason of the others is "where_FIELD".

  A field that is null is within no bounds.

  Attributes:
    field: its name.
    least, most: bounds of a number, both included.
    among: values that are kept; () for any.

  Raises UserError, when called, if a document has no such field, or one with bounds is no number: a step is missing or
  the name is wrong, and a rule that never applies would keep everything.
  """

  field: str
  least: float | None = None
  most: float | None = None
  among: Sequence[Any] = ()

  def __post_init__(self):
    require(self, "the name of a field", lambda value: isinstance(value, str) and value, "field")
    require(self, "a number", lambda value: isinstance(value, int | float), "least", "most")
    refuse(self, isinstance(self.among, str), "among", "must be a list of values")
    if self.least is None and self.most is None and not self.among:
      raise UserError(f"Where.field = {self.field!r} keeps everything: give least, most or among")
    refuse(self, self.least is not None and self.most is not None and self.least > self.most, "least",
           f"is above most = {self.most!r}")

  def __call__(self, document: Document) -> Document | Dropped:
    if self.field not in document.fields:
      there = ", ".join(sorted(document.fields)) or "none"
      raise UserError(f"Where.field = {self.field!r}: {document.name} has no such field (it has {there}): put the step "
                      "that writes it before, or correct the name")
    value = document.fields[self.field]
    if self._holds(document, value):
      return document
    shown = value if isinstance(value, float | int) and not isinstance(value, bool) else one_line(value)
    return Dropped("where_" + re.sub(r"\W+", "_", self.field.lower()), shown)

  def _holds(self, document: Document, value: Any) -> bool:
    if self.among and value not in self.among:
      return False
    if self.least is None and self.most is None:
      return True
    if value is None:
      return False
    if not isinstance(value, int | float):
      raise UserError(f"Where.field = {self.field!r}: {document.name} has {one_line(value)!r} there, and least and "
                      "most are for numbers: use among")
    return (self.least is None or self.least <= value) and (self.most is None or value <= self.most)
