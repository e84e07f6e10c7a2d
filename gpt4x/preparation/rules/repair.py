"""Text as it was meant: mojibake, control characters, forms of Unicode and ends of lines."""

import dataclasses
import re
import types

import gin

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped

_UNTOUCHED = re.compile(r"[\t\n -~]*")
# Tabs of lines, feeds of pages, separators of records, and U+0085 where it is no byte of mojibake: ends of lines.
_LINES = re.compile("\r\n|[\x0b\x0c\x1c-\x1e]|(?<![\x80-\u2122])\x85")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_ROUNDS = 8  # Each repair may show another.


def _ftfy() -> types.ModuleType:
  try:
    import ftfy
    import ftfy.fixes
  except ImportError as error:
    raise UserError("RepairEncoding needs ftfy, which is not installed: pip install 'gpt4x[prepare]'") from error
  return ftfy


def _repaired(ftfy: types.ModuleType, text: str) -> str:
  text = ftfy.fix_text(
      _LINES.sub("\n", text), unescape_html=False, fix_c1_controls=False, fix_latin_ligatures=False,
      fix_character_width=False, uncurl_quotes=False, normalization="NFC")
  return _CONTROLS.sub("", ftfy.fixes.fix_c1_controls(text))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RepairEncoding:
  """Repairs what wrong decoding did to a text, by ftfy (Speer 2019, doi:10.5281/zenodo.2591652); drops none.

  Mojibake is decoded again, and characters are composed (NFC). What ends lines elsewhere ("\\r\\n", "\\r", U+0085,
  U+2028, U+2029, form feeds) becomes "\\n", and other control characters go. Curly quotes, ligatures and wide letters
  stay, as do HTML's entities. Running it twice changes nothing.

  Raises UserError, when called, if ftfy is not installed.
  """

  def __call__(self, document: Document) -> Document | Dropped:
    text = document.text
    if _UNTOUCHED.fullmatch(text):
      return document
    ftfy = _ftfy()
    for _ in range(_ROUNDS):
      before, text = text, _repaired(ftfy, text)
      if text == before:
        break
    return document if text == document.text else document.with_text(text)
