"""Wiki markup to text: what a reader of the page reads as prose, headings and lists.

mwparserfromhell parses; its own `strip_code` leaves the options of images, categories, links to other languages,
magic words and the marks of lists, and joins what a line break kept apart.
"""

from collections.abc import Iterable
import functools
import re
from typing import Any

from gpt4x.preparation.libraries import library

_FILES = {
    "file", "image", "media", "bild", "datei", "fichier", "archivo", "imagen", "immagine", "bestand", "afbeelding",
    "ficheiro", "imagem", "plik", "grafika", "fil", "fitxer", "imatge", "soubor", "súbor", "fájl", "kép", "dosya",
    "файл", "изображение", "зображення", "слика", "картинка", "tiedosto", "kuva", "berkas", "tập tin", "ไฟล์", "αρχείο",
    "קובץ", "ملف", "پرونده", "चित्र", "চিত্র", "ファイル", "画像", "文件", "檔案", "图像", "파일", "그림"}
_CATEGORIES = {
    "category", "kategorie", "catégorie", "categoría", "categoria", "categorie", "kategoria", "kategori", "kategória",
    "kategorija", "luokka", "категория", "категорія", "категорија", "κατηγορία", "קטגוריה", "تصنيف", "رده", "श्रेणी",
    "বিষয়শ্রেণী", "thể loại", "หมวดหมู่", "カテゴリ", "分类", "分類", "분류"}
_MEDIA_NAME = re.compile(
    r":[^|]*\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gav]|mp3|flac|wav|webm|pdf|djvu)\s*$", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|(?:zh|be|roa)-[a-z-]+|map-bms|bat-smg|fiu-vro|nds-nl|cbk-zam)$")
_NO_TEXT = {
    "ref", "references", "gallery", "table", "math", "chem", "ce", "score", "timeline", "imagemap", "hiero",
    "templatedata", "templatestyles", "graph", "mapframe", "maplink", "includeonly", "indicator", "categorytree",
    "inputbox", "style", "script"}
_BLOCKS = {"p", "div", "blockquote", "poem", "center", "ul", "ol", "li", "pre", "syntaxhighlight", "source"}
_LEVEL = "\x02"  # Marks a heading, as many times as it has levels.

_LEFT_OVER = re.compile(
    r"__[A-Z]+__|'{2,}|\{\{+|\}\}+|\[\[+|\]\]+|<!--|-->"
    r"|</?(?:br|div|span|p|small|big|ref|sub|sup|center|font|nowiki|includeonly|noinclude|onlyinclude|table|t[rdh]|li|ul"
    r"|ol|b|i|u|s|em|strong|code|tt|blockquote|poem|gallery|section)\b[^<>\n]{0,200}>", re.IGNORECASE)
_TABLE_LINE = re.compile(r"^ ?(?:\{?\||!.*(?:!!|\|)).*$", re.MULTILINE)
_BLANKS = re.compile(r"[ \t\xa0]+")
# The look-behind has a run of signs tried once, and not from each of its places.
_BESIDE_BRACKET = re.compile(r"(?<=[(\[])[ ,;:]+|(?<![ ,;:])[ ,;:]++(?=[)\]])")
_EMPTY_BRACKETS = re.compile(r" ?(?:\(\)|\[\])")
_SPACE_BEFORE = re.compile(r" (?=[,.;](?:\s|$))")
_MARKS = re.compile(r"(?:- )+")
_NO_WORD = re.compile(r"[\W_]*$")


def wiki_text(content: bytes) -> str:
  """The text of wiki markup in UTF-8: prose, headings, lists as lines that begin with "- ", and the texts of links.

  Templates, tables, references, formulas, galleries, files with their captions and categories are left out, and then
  headings over nothing, brackets around nothing and lines without a letter or digit.
  """
  parser = library("mwparserfromhell", "wiki markup")
  markup = content.decode("utf-8", "replace").replace(_LEVEL, "")
  text = _BLANKS.sub(" ", _TABLE_LINE.sub("", _text(parser.parse(markup, skip_style_tags=True).nodes)))
  text = _SPACE_BEFORE.sub("", _EMPTY_BRACKETS.sub("", _BESIDE_BRACKET.sub("", text)))
  return "\n".join(_paragraphs(text.split("\n")))


def _text(nodes: Iterable[Any]) -> str:
  kinds = _kinds()
  return "".join(kinds.get(type(node).__name__, _nothing)(node) for node in nodes)


def _plain(text: Any) -> str:
  """A part without marks that the parser found to open or close nothing."""
  return _LEFT_OVER.sub("", str(text))


def _nothing(node: Any) -> str:
  return ""


def _link(node: Any) -> str:
  title = str(node.title).strip()
  space, colon, rest = title.partition(":")
  if colon:
    space = space.strip().lower()
    if space in _FILES or space in _CATEGORIES or _MEDIA_NAME.search(title):
      return ""
    if _LANGUAGE.match(space) and node.text is None:  # A link to the same page in another language.
      return ""
    if not space:  # [[:Category:A]] shows what would otherwise only put the page into it.
      title = rest
  return _text(node.text.nodes) if node.text is not None else _plain(title)


def _external(node: Any) -> str:
  return _text(node.title.nodes) if node.title is not None else "" if node.brackets else _plain(node.url)


def _heading(node: Any) -> str:
  return f"\n\n{_LEVEL * node.level}{_text(node.title.nodes)}\n\n"


def _tag(node: Any) -> str:
  name = str(node.tag).strip().lower()
  if name in _NO_TEXT or node.has("style") and "display:none" in str(node.get("style").value).replace(" ", "").lower():
    return ""
  if node.wiki_markup in ("*", "#"):
    return "- "
  if name in ("br", "hr"):
    return "\n"
  text = "" if node.contents is None else _text(node.contents.nodes)
  return f"\n{text}\n" if name in _BLOCKS and not node.wiki_markup else text


@functools.cache
def _kinds() -> dict[str, Any]:
  """By the names of the parser's classes; what has no name here has no text, such as templates and comments."""
  return {"Text": lambda node: _plain(node.value), "HTMLEntity": lambda node: str(node.normalize()),
          "Wikilink": _link, "ExternalLink": _external, "Heading": _heading, "Tag": _tag}


def _paragraphs(lines: Iterable[str]) -> list[str]:
  """Lines with one blank line between paragraphs, and without headings over nothing."""
  kept = list[str]()
  above = list[tuple[int, str]]()  # Headings over what has no text yet.
  blank = False
  for line in lines:
    text = line.strip().lstrip(_LEVEL).strip()
    if _NO_WORD.match(text):
      blank = True
    elif level := line.count(_LEVEL):
      above = [*((lower, title) for lower, title in above if lower < level), (level, text)]
    else:
      for _, title in above:
        kept += ["", title]
      if above or blank and not (text.startswith("- ") and kept and kept[-1].startswith("- ")):
        kept.append("")
      kept.append(_MARKS.sub("- ", text, 1) if text.startswith("- ") else text)
      above, blank = [], False
  return kept[1:] if kept and not kept[0] else kept
