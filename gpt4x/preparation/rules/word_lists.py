"""Words of a user's list, found between non-letters whatever their case."""

from collections import Counter
import dataclasses
import functools
import pathlib
import re

import gin

from gpt4x import storage
from gpt4x.data.scripts import MARKS, UNSPACED
from gpt4x.errors import one_line, require, UserError
from gpt4x.preparation.document import Document, Dropped

_LETTER = rf"(?:[^\W\d_]|[{MARKS}])"
_LETTERS = re.compile(rf"{_LETTER}+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_SHOWN = 10  # Words in the reason of a document that is dropped.


class ListedWords:
  """Counts listed words in texts.

  An entry is found where no letter stands before or after it, so that "ass" is not in "class". A character of a script
  without blanks between words needs no such border. A blank in an entry is any blanks.
  """

  def __init__(self, entries: list[str]):
    folded = {" ".join(entry.casefold().split()) for entry in entries}
    self._words = {entry for entry in folded if _LETTERS.fullmatch(entry) and not _UNSPACED.search(entry)}
    # The longest first: of those that begin alike, it is found.
    others = sorted(folded - self._words - {""}, key=lambda entry: (-len(entry), entry))
    self._others = re.compile("|".join(map(self._pattern, others))) if others else None

  @staticmethod
  def _pattern(entry: str) -> str:
    first, last = (_LETTERS.match(end) and not _UNSPACED.match(end) for end in (entry[0], entry[-1]))
    words = r"\s+".join(map(re.escape, entry.split(" ")))
    return f"{f'(?<!{_LETTER})' if first else ''}{words}{f'(?!{_LETTER})' if last else ''}"

  def counts(self, text: str) -> dict[str, int]:
    """How often each entry occurs, in small letters; those that do not are left out."""
    text = text.casefold()
    found = Counter([word for word in _LETTERS.findall(text) if word in self._words])
    if self._others:
      found.update(" ".join(match.group().split()) for match in self._others.finditer(text))
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=8)
def listed_words(file: str) -> ListedWords:
  """The words of a UTF-8 file, one a line. Raises UserError if it cannot be read or is empty."""
  try:
    entries = storage.path(file).read_text("utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{file} cannot be read as a list of words ({one_line(error)}): give a UTF-8 file, one word a line"
                    ) from error
  if not any(map(str.strip, entries)):
    raise UserError(f"{file} lists no words: write one a line")
  return ListedWords(entries)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WordList:
  """Drops documents with words of a list; notes in the field "word_list" how often each occurs in one that is kept.

  A list finds words, not meanings: lists of offensive words drop medicine, law, and what minorities write of
  themselves (Dodge et al. 2021, arXiv:2104.08758). Read what was dropped.

  Attributes:
    file: UTF-8, a word or several a line. Case is ignored.
    most: occurrences in a document that is kept, all words together.
  """

  file: str
  most: int = 0

  def __post_init__(self):
    require(self, "a file of words", lambda value: isinstance(value, str) and value, "file")
    require(self, "at least 0", lambda value: value >= 0, "most")

  def files_read(self) -> list[pathlib.Path]:
    return [storage.path(self.file)]

  def __call__(self, document: Document) -> Document | Dropped:
    counts = listed_words(self.file).counts(document.text)
    total = sum(counts.values())
    if total > self.most:
      frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
      return Dropped("word_list", total, ", ".join(f"{word} {count}" for word, count in frequent))
    return document.with_text(document.text, word_list=counts)
