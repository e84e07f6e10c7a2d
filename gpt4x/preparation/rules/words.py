"""Words of a text, as the rules count them: what blanks separate, or the characters of scripts that use no blanks."""

import functools
import re
from typing import NamedTuple

from gpt4x.data.scripts import UNSPACED

# The marks and the punctuation behind a character belong to it: Python's \w has no combining marks.
_CHARACTER = re.compile(rf"[{UNSPACED}][^\w\s]*")


class Words(NamedTuple):
  """The words of a text.

  Attributes:
    words: in their order; their case and their punctuation are the text's.
    unspaced: whether most of them are single characters of a script without blanks between words. Thresholds made for
      English words say nothing of such a text.
  """

  words: list[str]
  unspaced: bool


def split(text: str) -> Words:
  """The words of a text.

  A word is what stands between blanks. A character of a script that writes no blanks (Chinese, Japanese, Thai, Lao,
  Burmese, Khmer, Tibetan) is a word by itself, with its marks and the punctuation that follows. The script decides, not
  the field "language": documents with both are common, and a field may be missing or wrong.
  """
  if text.isascii():
    return Words(text.split(), False)
  spaced, characters = _CHARACTER.subn(r" \g<0> ", text)
  words = spaced.split()
  return Words(words, 2 * characters > len(words))


@functools.lru_cache(maxsize=1)
def words_of(text: str) -> Words:
  """`split` of a document's text, once for the rules that follow each other; not to be changed."""
  return split(text)
