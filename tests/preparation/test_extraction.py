"""The text of pages, whatever their charset, and what becomes of those that cannot be read."""

import functools
import os
import pickle
import re
import sys
import time

import gin
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation import killable
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.extraction import Extract

SENTENCE = "Größe ist der Rede wert, und dieser Satz ist lang genug, um als Text zu gelten. "
PAGE = f"""<!DOCTYPE html><html><head><title>T</title><script>var x = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/x">Impressum</a></li></ul></nav>
<article><h1>Titel</h1><p>{SENTENCE * 4}</p><p>Zweiter Absatz. {SENTENCE * 3}</p>
<table><tr><td>Zelle eins</td><td>Zelle zwei</td></tr><tr><td>Zelle drei</td><td>Zelle vier</td></tr></table></article>
<div id="comments" class="comments"><p>Ein Kommentar von jemandem.</p></div>
<footer><p>Copyright</p></footer></body></html>"""
LIBRARY = {"standard": "trafilatura", "fast": "resiliparse"}
MODES = pytest.mark.parametrize("mode", LIBRARY)


@pytest.fixture(autouse=True)
def _installed(request):
  for mode, name in LIBRARY.items():
    if "mode" in request.fixturenames and request.getfixturevalue("mode") == mode:
      pytest.importorskip(name)


def page(content, **fields):
  return Document("f:1", content=content if isinstance(content, bytes) else content.encode(), fields=fields)


@MODES
def test_the_main_text_of_a_page_is_kept(mode):
  found = Extract(mode)(page(PAGE, url="http://a/", content_type="text/html"))
  assert found.name == "f:1" and found.fields == {"url": "http://a/", "content_type": "text/html"}
  assert found.content == b""
  assert found.text.count(SENTENCE.strip()) == 7
  assert "Impressum" not in found.text and "var x" not in found.text and "Copyright" not in found.text
  assert "Kommentar" not in found.text or mode == "fast"
  assert any(line.startswith("Zweiter Absatz.") for line in found.text.split("\n"))


def test_tables_are_a_choice():
  pytest.importorskip("trafilatura")
  assert "Zelle" not in Extract(tables=False)(page(PAGE)).text
  assert "Zelle drei" in Extract()(page(PAGE)).text


@MODES
@pytest.mark.parametrize("charset, declared", [("utf-8", "iso-8859-1"), ("cp1252", None), ("cp1252", "iso-8859-1"),
                                               ("utf-16", None), ("utf-8-sig", None), ("iso-8859-15", "iso-8859-15")])
def test_the_charset_is_found(mode, charset, declared):
  fields = {"charset": declared} if declared else {}
  assert SENTENCE.strip() in Extract(mode)(page(PAGE.encode(charset), **fields)).text


@MODES
def test_a_page_with_a_declaration_of_xml_is_read(mode):
  declared = '<?xml version="1.0" encoding="iso-8859-1"?>\n' + PAGE
  found = Extract(mode)(page(declared.encode("iso-8859-1"), content_type="application/xhtml+xml; charset=x"))
  assert SENTENCE.strip() in found.text


@MODES
@pytest.mark.parametrize("content", [b"", b" \n", b"<html>", b"<p></p>", b"\0\0", b"<script>x = 1</script>", b"<!--"])
def test_what_has_no_text_is_dropped(mode, content):
  assert Extract(mode)(page(content)) == Dropped("no_text")


def test_texts_are_decoded_and_stay():
  extract = Extract()
  assert extract(page("a\r\n<b>ü\r".encode("cp1252"), content_type="text/plain")).text == "a\n<b>ü"
  assert extract(page(b" \r\n\r\n", content_type="text/plain")) == Dropped("no_text")
  have = Document("f:1", text="as it was\r\n ", content=b"<p>x")
  assert extract(have) is have
  assert extract(page(b"%PDF-1.4", content_type="application/pdf")) == Dropped("content_type", "application/pdf")


def test_wiki_markup_is_read():
  pytest.importorskip("mwparserfromhell")
  assert Extract()(page("'''Ü''' [[a|b]]{{c}}", content_type="text/x-wiki")).text == "Ü b"
  assert Extract()(page("{{c}}", content_type="text/x-wiki")) == Dropped("no_text")


@pytest.mark.parametrize("name", ["standard_text", "wiki_text"])
@pytest.mark.parametrize("extractor, timeout, reason", [
    (functools.partial(re.match, "(a+)+b", "a" * 60), 0.05, "extraction_timeout"),
    (functools.partial(time.sleep, 60), 0.05, "extraction_timeout"),
    (functools.partial(os._exit, 7), 20.0, "extraction_crash"), (os.abort, 20.0, "extraction_crash"),
    (functools.partial(int, "no number"), 20.0, "extraction_error")])
def test_a_page_that_an_extractor_fails_at_is_dropped_and_the_next_is_read(
    monkeypatch, name, extractor, timeout, reason):
  kind = {"standard_text": "text/html", "wiki_text": "text/x-wiki"}[name]
  call = killable.Child.call
  with monkeypatch.context() as patched:
    patched.setattr(killable.Child, "call", lambda self, function, *content, **options: call(
        self, extractor, **options) if function.__name__ == name else 1 / 0)
    found = Extract(timeout=timeout)(page(PAGE, content_type=kind))
  assert isinstance(found, Dropped) and found.reason == reason and found.value is not None
  assert killable.child().call(len, "ab", timeout=20.0) == 2


def test_odd_pages_raise_nothing():
  pytest.importorskip("trafilatura")
  for content in (b"<p>" * 20_000 + b"deep", b"<a b='" + b"x" * 100_000, bytes(range(256)) * 10, b"<![CDATA[" * 100,
                  b"<svg><math><template>x", "\ud83d".encode("utf-8", "surrogatepass"), b"&#0;&#xd800;&#x110000;<p>x"):
    for mode in LIBRARY:
      found = Extract(mode)(page(content))
      assert isinstance(found, Dropped) or found.text.encode() and "\r" not in found.text


@pytest.mark.parametrize("mode, kind", [("standard", "text/html"), ("fast", "text/html"), ("fast", "text/x-wiki")])
def test_a_missing_library_is_named(monkeypatch, mode, kind):
  missing = LIBRARY[mode] if kind == "text/html" else "mwparserfromhell"
  for module in (missing, "resiliparse.extract.html2text"):
    monkeypatch.setitem(sys.modules, module, None)
  monkeypatch.setattr(killable.Child, "call", lambda self, function, *arguments, **_: function(*arguments))
  with pytest.raises(UserError, match=rf"needs {missing}, which is not installed: pip install 'gpt4x\[prepare\]'"):
    Extract(mode)(page(PAGE, content_type=kind))


def test_parameters_are_checked_and_the_rule_can_be_sent():
  for wrong in (dict(mode="quick"), dict(timeout=0), dict(timeout="x"), dict(timeout=float("nan"))):
    with pytest.raises(UserError, match="Extract"):
      Extract(**wrong)
  rule = Extract("fast", timeout=3.0)
  assert pickle.loads(pickle.dumps(rule)) == rule and hash(rule) == hash(Extract("fast", timeout=3.0))
  with gin.unlock_config():
    gin.parse_config("Extract.timeout = 7.0")
    assert Extract().timeout == 7.0
    gin.clear_config()
