"""Lines and paragraphs that come up again."""

from collections.abc import Sequence
import dataclasses
import re
import string
from typing import Literal

import gin
import numpy as np

from gpt4x.errors import refuse, require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import hashing
from gpt4x.preparation.duplicates.join import Join, Match

_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’«»–—…·。、，；：！？（）")
_DIGIT = re.compile(r"\d")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RepeatedLines(Join):
  """Takes out every line that came up before, in the same document or an earlier one; drops what has none left.

  Attributes:
    alike: which lines are: "ccnet" without case, digits and punctuation (arXiv:1911.00359), "c4" without case.
    least_chars: lines that are shorter stay.
  """

  alike: Literal["ccnet", "c4"] = "ccnet"
  least_chars: int = 1

  def __post_init__(self):
    refuse(self, self.alike not in ("ccnet", "c4"), "alike", "is unknown: use 'ccnet' or 'c4'")
    require(self, "at least 1", lambda value: value >= 1, "least_chars")

  def keys(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
    lines = [self._normal(line) for line in document.text.split("\n")]
    places = [place for place, line in enumerate(lines) if len(line) >= self.least_chars]
    return hashing.of_words([lines[place] for place in places]), np.array(places, np.uint32)

  def apply(self, document: Document, matches: Sequence[Match]) -> Document | Dropped:
    repeated = {match.place for match in matches}
    left = "\n".join(line for place, line in enumerate(document.text.split("\n")) if place not in repeated)
    return document.with_text(left) if left.strip() else Dropped("repeated_lines", match=matches[0].name)

  def _normal(self, line: str) -> str:
    line = line.strip().lower()
    return _DIGIT.sub("0", line).translate(_PUNCTUATION).strip() if self.alike == "ccnet" else line
