"""Vocabularies of whole words."""

from collections.abc import Iterable, Sequence
import functools
import os
from typing import Any

from gpt4x import run_directory, storage
from gpt4x.data.local_text import LocalText
from gpt4x.data.vocabularies.files import FileVocabulary, PythonVocabulary
from gpt4x.errors import UserError


class WordVocabulary(PythonVocabulary, FileVocabulary):
  """Words with blanks between them, and `<eos>` at the end of each line; an unknown word is `<unk>`.

  Tokenised corpora, such as WikiText-103, have blanks around their commas. The file has a word on each line, in the
  order of ids. Id 0 may be any word, so no id is padding, and no id ends a text.
  """

  saved_as = run_directory.WORDS

  def __init__(self, path: str | os.PathLike | None = None):
    """Takes the file; None means the file that gin gives to `LocalText.words` at the time of reading."""
    super().__init__()
    self._where = os.fspath(path) if path else None

  @property
  def by_name(self) -> bool:
    return self._where is None

  @property
  def file(self) -> str:
    if path := self._where or LocalText().words:
      return os.path.expanduser(path)
    raise UserError("LocalText.words is not set; name the file of words, for instance"
                    " --gin.LocalText.words=\"'runs/mine/words.txt'\"")

  def to_bytes(self) -> bytes:
    return "".join(f"{word}\n" for word in self.words).encode()

  @property
  def words(self) -> list[str]:
    return self._read()[0]

  def _read(self) -> tuple[list[str], dict[str, int]]:
    content, file = self._content(), self.file
    try:
      return _parse(content, file)
    except UnicodeDecodeError as error:
      raise UserError(f"{file} is no file of words ({error}): {self._remedy()}") from error

  def _remedy(self) -> str:
    return "set LocalText.words to a file of UTF-8 with a word on each line, such as words.txt in a model directory"

  @property
  def _base_vocab_size(self) -> int:
    return len(self.words)

  pad_id = None
  eos_id = None

  @property
  def unk_id(self) -> int | None:
    ids = self._read()[1]
    return ids.get("<unk>", ids.get("<UNK>"))

  def _encode(self, s: str) -> Sequence[int]:
    ids, unknown, encoded = self._read()[1], self.unk_id, list[Any]()
    line_end = [ids["<eos>"]] if "<eos>" in ids else []
    for number, line in enumerate(s.split("\n")):  # Line by line: a list of all words takes ten times the file's size.
      encoded += line_end * (number > 0) + [ids.get(word, unknown) for word in line.split()]
    if unknown is None and None in encoded:
      word = next(word for word in s.split() if word not in ids)
      raise UserError(f"the word {word!r} is not in {self.file}, which has no <unk>: take it out of the text")
    return encoded

  def _decode(self, ids: Iterable[int]) -> str:
    lines: list[list[str]] = [[]]
    for word in map(self.words.__getitem__, ids):
      if word == "<eos>":
        lines.append([])
      else:
        lines[-1].append(word)
    return "\n".join(map(" ".join, lines))

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, WordVocabulary) and (self._where, self._held) == (other._where, other._held)


@functools.lru_cache(maxsize=4)
def _parse(content: bytes, where: str) -> tuple[list[str], dict[str, int]]:
  """The words of a file and their ids."""
  text = content.decode("utf-8").replace("\r\n", "\n")
  words = text.removesuffix("\n").split("\n")
  return words, _word_ids(words, where)


def _word_ids(words: Sequence[str], where: str | os.PathLike) -> dict[str, int]:
  """The id of each word; a UserError for a word that no line could be split into."""
  ids: dict[str, int] = {}
  for i, word in enumerate(words):
    if not isinstance(word, str) or word.split() != [word] or word in ids:
      raise UserError(f"{where}: word {i}, {word!r}, is empty, has a blank inside or was there before: correct it")
    ids[word] = i
  return ids


def write_words(words: Sequence[str], directory: str | os.PathLike) -> WordVocabulary:
  """Writes the words of a model into its directory; returns the vocabulary."""
  path = storage.path(directory) / run_directory.WORDS
  _word_ids(words, path)
  storage.make_directory(path.parent)
  storage.write(path, "".join(f"{word}\n" for word in words).encode())
  return WordVocabulary(path)
