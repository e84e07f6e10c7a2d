"""Repaired texts: those that were spoiled on purpose come back."""

import pickle
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from gpt4x.preparation.document import Document
from gpt4x.preparation.rules.repair import RepairEncoding

pytest.importorskip("ftfy")


def repaired(text):
  return RepairEncoding()(Document("a", text)).text


@pytest.mark.parametrize("text", [
    "The Mona Lisa doesn’t have eyebrows — “really”.", "L’été à Genève coûte cher.", "schön und größer", "naïve café"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("wrong", ["sloppy-windows-1252", "latin-1"])  # The former is ftfy's: it decodes every byte.
def test_mojibake_is_decoded_again(text, times, wrong):
  spoiled = text
  for _ in range(times):
    spoiled = spoiled.encode("utf-8").decode(wrong)
  assert repaired(spoiled) == text


@pytest.mark.parametrize("text, expected", [
    ("a\r\nb\rc\u2028d\u2029e\x0cf\x0bg\x1ch", "a\nb\nc\nd\ne\nf\ng\nh"), ("one\r\n\r\ntwo", "one\n\ntwo"),
    ("a\x00b\x07c\x7fd\ufeff", "abcd"),
    ("日\x81本", "日本"), ("e\u0301", "é"), ("A\u030a", "Å"), ("tab\there", "tab\there"),
    ("“curly” ﬁ ＡＢＣ &lt;", "“curly” ﬁ ＡＢＣ &lt;"), ("İstanbul 😀", "İstanbul 😀"), ("", ""), ("\n", "\n"),
    ("half \ud800 pair", "half \ufffd pair")])
def test_forms(text, expected):
  assert repaired(text) == expected


def test_next_line_ends_a_line():
  assert repaired("one\x85two\x85") == "one\ntwo\n" and repaired("日本\x85語") == "日本\n語"
  assert repaired("\xc3\x85ngström") == "Ångström"  # Here it is a byte of mojibake.


def test_what_is_well_is_the_same_document():
  for text in ("plain\n\ttext", "schön", "日本語"):
    document = Document("a", text)
    assert RepairEncoding()(document) is document
  assert pickle.loads(pickle.dumps(RepairEncoding())) == RepairEncoding()


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="aÃ©â€™ÂÅ\x85\x80\x99\r\n\u2028 \u0301\x1b[1m\ud83d"),
                 st.text().map(lambda text: text.encode("utf-8", "replace").decode("latin-1"))))
def test_running_twice_changes_nothing(text):
  once = repaired(text)
  assert repaired(once) == once
  assert unicodedata.is_normalized("NFC", once)
  assert not set(once) & set("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00")


def test_a_missing_library_is_named(monkeypatch):
  import sys

  from gpt4x.errors import UserError
  monkeypatch.setitem(sys.modules, "ftfy", None)
  with pytest.raises(UserError, match="needs ftfy, which is not installed: pip install 'gpt4x.prepare.'"):
    repaired("é")
