"""MarkedVocabulary: text, and behind it the marks of what is hidden, where it goes, and how it is to be made."""

from collections.abc import Iterable
import copy
import dataclasses
import functools
import itertools
import json
import re
from typing import Any

import gin
import seqio

from gpt4x.data.vocabularies import composed, holding, ids, saving
from gpt4x.data.vocabularies.composed import ExtendedVocabulary
from gpt4x.errors import require, UserError

# In the order of their ids, the first right behind those of text. `<end>` ends what is filled in.
NAMES = "<end>", "<prefix>", "<suffix>", "<middle>", "<mask>", "[R]", "[S]", "[X]"
_SETTINGS = "settings.json"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Marks:
  """What the vocabulary of denoising is made of.

  Attributes:
    text: `bytes`, a SentencePiece model by its name or path, or the directory of a run, whose vocabulary is meant.
    spans: how many spans of an example can be hidden: `<extra_id_0>` and so on, the last ids, as T5 has them.
  """

  text: str = "bytes"
  spans: int = 100

  def __post_init__(self):
    require(self, "a whole number from 1 to 10,000", lambda count: isinstance(count, int) and 1 <= count <= 10_000,
            "spans")


@saving.register
class MarkedVocabulary(ExtendedVocabulary):
  """A text vocabulary, whose ids stay as they are, and behind them NAMES and the marks of spans.

  No text has a mark: one that spells it is encoded like any other text.
  """

  def __init__(self, marks: Marks | None = None):
    """Takes what it is made of; None: what gin says of Marks at the time of reading."""
    super().__init__()
    self._marks, self._where = marks, ""

  # How it is kept.

  @property
  def file(self) -> str:
    return self._where or str(getattr(self.text, "file", ""))

  @classmethod
  def from_bytes(cls, content: bytes, file: str = "", **described: Any) -> "MarkedVocabulary":
    """See FileVocabulary; `described` is in the content too."""
    del described
    made = cls()
    made._where, made._held = file, content
    made._check()
    return made

  @property
  def arguments(self) -> dict[str, Any]:
    return {"text": saving.spec(self.text)["class"], "spans": self.spans}

  def held(self, own: seqio.Vocabulary | None = None) -> "MarkedVocabulary":
    """See FileVocabulary. The text vocabulary of `own` takes the place of one that is known by its name alone."""
    if self._held is not None:
      return self
    named, made = self._named, copy.copy(self)
    text = holding.held(composed.text_of(named.text), own.text if isinstance(own, MarkedVocabulary) else None)
    made._where, made._marks, made._held = getattr(text, "file", ""), named, _content(named.spans, text)
    made._check()
    return made

  def __eq__(self, other: Any) -> bool:
    mine, theirs = ((one._marks, one._held) if isinstance(one, MarkedVocabulary) else None for one in (self, other))
    return mine == theirs

  @property
  def _named(self) -> Marks:
    return self._marks or Marks()

  def _content(self) -> bytes:
    return self._held if self._held is not None else _content(self._named.spans, composed.text_of(self._named.text))

  @property
  def _parts(self) -> tuple[int, seqio.Vocabulary]:
    return _unpacked(self._content(), self._where or "Marks")

  # What it has.

  @property
  def spans(self) -> int:
    """How many spans have a mark."""
    return self._parts[0]

  @property
  def text(self) -> seqio.Vocabulary:
    """The vocabulary of text, to which the first ids belong."""
    return self._parts[1]

  @property
  def special_tokens(self) -> dict[int, str]:
    """The marks by their ids."""
    first = self.text.vocab_size
    extra = (f"<extra_id_{self.spans - 1 - i}>" for i in range(self.spans))
    return dict(enumerate(itertools.chain(NAMES, extra), first))

  def mark(self, name: str) -> int:
    """The id of one of NAMES."""
    return self.text.vocab_size + NAMES.index(name)

  def span_id(self, number: int) -> int:
    """The mark of a hidden span, by its number from 0."""
    return self.vocab_size - 1 - number

  @property
  def _base_vocab_size(self) -> int:
    return self.text.vocab_size + len(NAMES) + self.spans

  @property
  def start_id(self) -> int:
    """The input before a document's first token."""
    return ids.start_id(self.text)

  def _decode(self, ids: Iterable[int]) -> str:
    """The text, with the name of each mark but `<end>`."""
    marks, found = self.special_tokens, list[str]()
    for special, group in itertools.groupby(ids, marks.__contains__):
      some = list(group)
      found.append("".join(marks[i] for i in some if marks[i] != "<end>") if special else self.text.decode(some))
    return "".join(found)

  def encode_marked(self, text: str) -> list[int]:
    """The ids of a text in which the name of a mark is the mark."""
    marks = {name: i for i, name in self.special_tokens.items()}
    parts = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    return [i for number, part in enumerate(parts) if part
            for i in ([marks[part]] if number % 2 else self.text.encode(part))]


def _content(spans: int, text: seqio.Vocabulary) -> bytes:
  return composed.packed({_SETTINGS: json.dumps({"spans": spans}).encode()} | composed.files_of(text))


@functools.lru_cache(maxsize=4)
def _unpacked(content: bytes, file: str) -> tuple[int, seqio.Vocabulary]:
  try:
    files = composed.unpacked(content)
    return Marks(spans=json.loads(files.pop(_SETTINGS))["spans"]).spans, composed.text_in(files)
  except (KeyError, ValueError, TypeError) as error:
    raise UserError(f"{file} holds no vocabulary with marks ({error}): copy it again") from error
