"""Bytes in every charset, with what is said of them right, wrong or missing."""

import codecs

from hypothesis import given
from hypothesis import strategies as st
import pytest

from gpt4x.preparation.decoding import decoded

TEXT = {"cp1252": "“Größe” – déjà vu €", "cp1251": "Привет, мир, как дела", "iso8859-7": "Καλημέρα κόσμε",
        "gb2312": "简体中文的句子", "big5": "繁體中文的句子", "euc_kr": "한국어 문장입니다"}
TEXT |= dict.fromkeys(("euc_jp", "shift_jis", "iso2022_jp"), "日本語の文章です。")


@given(st.text())
def test_utf_8_is_read_whatever_is_declared(text):
  expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
  assert decoded(text.encode()) == expected
  if text.isascii() or "\x1b" not in text and "~{" not in text:
    for charset in ("iso-8859-1", "windows-1251", "utf-8", "no such charset", "utf-16"):
      assert decoded(text.encode(), charset) == expected


@pytest.mark.parametrize("charset", TEXT)
def test_a_declared_charset_is_read(charset):
  data = TEXT[charset].encode(charset)
  assert decoded(data, charset) == TEXT[charset]
  assert decoded(b'<html><head><meta charset="%b"><p>' % charset.encode() + data).endswith(TEXT[charset])
  assert decoded(b"<?xml version='1.0' encoding='%b'?>" % charset.encode() + data).endswith(TEXT[charset])
  http_equiv = b'<META http-equiv=Content-Type content="text/html; charset=%b">' % charset.encode()
  assert decoded(http_equiv + data).endswith(TEXT[charset])


@pytest.mark.parametrize("declared", [
    "iso-8859-1", "latin-1", "us-ascii", None, "utf-8", "nonsense", "hex", "rot13", ""])
def test_what_is_declared_too_narrow_or_wrong_is_windows_1252(declared):
  assert decoded(TEXT["cp1252"].encode("cp1252"), declared) == TEXT["cp1252"]


def test_a_mark_at_the_beginning_decides():
  for mark, charset in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
                        (codecs.BOM_UTF16_BE, "utf-16-be")):
    assert decoded(mark + "für".encode(charset), "iso-8859-1") == "für"


def test_a_few_bytes_that_do_not_fit_spoil_no_text():
  data = ("Привет, мир. " * 50).encode()
  assert decoded(data + b"\xff" + data).count("Привет") == 100
  assert decoded(("日本語" * 50).encode("euc_jp") + b"\xff", "euc-jp").startswith("日本語")


@given(st.binary(), st.sampled_from([
    None, "utf-8", "utf-16", "utf-7", "idna", "punycode", "shift_jis", "hz", "base64"]))
def test_any_bytes_are_read_as_something(data, charset):
  text = decoded(data, charset)
  assert "\r" not in text
  text.encode()  # No half of a surrogate pair.


def test_bytes_that_do_not_fit_are_weighed_against_those_that_do_and_not_against_ascii():
  assert decoded(b"long ascii " * 1000 + b"f\xfcr") == "long ascii " * 1000 + "für"
  assert decoded("für".encode() * 9 + b"\xff") == "für" * 9 + "\ufffd"


def test_a_charset_declared_far_below_is_found():
  assert decoded(b"<html>" + b" " * 2000 + b"<meta charset=gb2312>" + TEXT["gb2312"].encode("gb2312")).endswith(
      TEXT["gb2312"])


def test_only_carriage_returns_are_changed():
  assert decoded("a\r\nb\rc\u2028d\x0be\x85f\n".encode()) == "a\nb\nc\u2028d\x0be\x85f\n"
