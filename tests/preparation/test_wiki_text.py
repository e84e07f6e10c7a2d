"""Wiki markup to text: what readers read stays, and the furniture goes."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

pytest.importorskip("mwparserfromhell")

from gpt4x.preparation.wiki_text import wiki_text


def text(markup):
  return wiki_text(markup.encode())


@pytest.mark.parametrize("markup, expected", [
    ("'''Ada''' was ''the [[England|English]]'' [[writer]]s.", "Ada was the English writers."),
    ("a{{infobox|x={{nested|y}}}} b<ref>c</ref> d<ref name=x /> e", "a b d e"),
    ("Ada ({{lang|x}}; born {{date|1}}, 1815) ({{x}}) and ({{x}}, {{y}}), so.", "Ada (born, 1815) and, so."),
    ("{| class=x\n! a !! b\n|-\n| c || {{d}}\n|}\nrest", "rest"),
    ("{| unclosed\n! a !! b\n|-\n| c\nrest", "rest"),
    ("a\n[[File:x.jpg|thumb|200px|A [[caption]] of ''it'']]\nb", "a\n\nb"),
    ("[[Datei:x.jpg|mini|a]][[Файл:x.png|мини]][[ファイル:x.svg]][[Xyz:Foo.webm|thumb|a]]b", "b"),
    ("a\n[[Category:X]]\n[[Kategorie:X|sort]]\n[[de:X]]\n[[zh-yue:X]]\n[[simple:X]]", "a"),
    ("[[:Category:X]], [[:de:X]], [[Star Trek: Voyager]], [[en:X|that]]",
     "Category:X, de:X, Star Trek: Voyager, that"),
    ("[http://a/ name] [http://b/] http://c/", "name http://c/"),
    ("&lt;p&gt; a&nbsp;b &mdash; c &#65;", "<p> a b — c A"),
    ("a<br>b<br/>c", "a\nb\nc"),
    ("<div style='display: none'>a</div><div>b</div><span>c</span>", "b\nc"),
    ("a <math>x^2</math> b <gallery>\nFile:x.jpg|y\n</gallery> c <!-- d --> __NOTOC__", "a b c"),
    ("* a\n* b\n** c\n# d\n* {{e}}\n", "- a\n- b\n- c\n- d"),
    ("a\n\n\n\nb\n{{x}}\n\n{{y}}\nc\nd", "a\n\nb\n\nc\nd"),
    ("== A ==\n{{x}}\n== B ==\n=== C ===\nc\n=== D ===\n== E ==\n", "B\n\nC\n\nc"),
    ("a\n== References ==\n<references />\n{{reflist}}\n== Links ==\n* [http://x]", "a"),
    ("<nowiki>[[a]] {{b}}</nowiki> c", "a b c"), ("<pre>a</pre>", "a"), ("a]] b}} [[c {{d </div> ''' '", "a b c d '"),
    ("H<sub>2</sub>O, 5<sup>th</sup>, 1 < 2 > 0", "H2O, 5th, 1 < 2 > 0"),
    ("", ""), ("\n \n", ""), ("{{x}}", ""), ("...\n---", ""), ("{{" * 50, ""), ("a\u2028b", "a\u2028b")])
def test_what_is_read_stays(markup, expected):
  assert text(markup) == expected


@pytest.mark.parametrize("markup", ["[" * 200_000, "{" * 200_000, " ;" * 200_000, "<" * 200_000, "(" * 200_000 + ")",
                                    "'" * 200_000, "=" * 200_000, "* " * 100_000, ", , (" * 50_000])
def test_long_runs_of_signs_take_no_long(markup):
  """Or no time at all, beside that of a search which tries each sign with each other."""
  text(markup)


@given(st.lists(st.sampled_from([
    "[[", "]]", "{{", "}}", "|", "File:", "''", "'''", "==", "\n", "a", " ", "<ref>", "</ref>", "<div>", "</div>", "{|",
    "|}", "|-", "!", "*", "(", ")", ":", "http://a", "<!--"])))
def test_any_markup_gives_lines_without_marks(parts):
  found = text("".join(parts))
  assert "\x02" not in found and "[[" not in found and "{{" not in found and "\n\n\n" not in found
  assert found == found.strip("\n") and all(line == line.strip() for line in found.split("\n"))


def test_control_characters_of_the_markup_are_no_headings():
  assert text("\x02\x02a\n\x02") == "a"


def test_what_is_no_utf_8_is_replaced():
  assert wiki_text(b"a\xffb") == "a\ufffdb"
