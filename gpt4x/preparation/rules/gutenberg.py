"""Books of Project Gutenberg without what was added to them."""

import dataclasses
import re

import gin

from gpt4x.preparation.document import Document, Dropped

# Lines that open and close a book. The older ones: a licence, the "small print", stands before the book or behind it.
_BORDER = re.compile(
    r"""[ \t]*(?:
        (?P<start>\*{3}\ ?START\ OF\ (?:THE|THIS)\ PROJECT\ GUTENBERG|\*END\ ?\*?\ ?THE\ SMALL\ PRINT)
      | (?P<end>\*{3}\ ?END\ OF\ (?:THE|THIS)\ PROJECT\ GUTENBERG
          |End\ of\ (?:The\ |This\ )?Project\ Gutenberg(?:['’]s|\ e-?text|\ e-?book))
      | (?P<small_print>\*{3}\ ?START\ ?\*{2}\ ?THE\ SMALL\ PRINT)
    )""", re.VERBOSE | re.IGNORECASE)
_CREDITS = re.compile(
    r"(?:This (?:e-?text|e-?book|file) was )?(?:e-?text |transcribed |scanned |proofread )?(?:and )?"
    r"(?:produced|prepared|transcribed|scanned|entered|typed|digitized|proofread)\b[^\n]{0,60}\bby\b|"
    r"HTML version by\b", re.IGNORECASE)
_FRONT = 20  # Pieces between pairs of newlines, at the head of a book, among which credits are looked for.
_NOTE = r"Transcriber[’']?s?[’']?[ ]notes?\b"
_BRACKETED = r"[^\[\]]{0,5000}(?:\[[^\[\]]{0,500}\][^\[\]]{0,5000}){0,50}\]"  # With brackets within, one deep.
_REMARKS = re.compile(
    rf"\[[ ]?{_NOTE}{_BRACKETED}|^[ \t]{{0,20}}{_NOTE}[ \t]*:[^\n]*(?:\n[ \t]*[^\s][^\n]*)*|"
    rf"\[(?:Illustrations?|Frontispiece)\b{_BRACKETED}", re.MULTILINE | re.IGNORECASE)
_PAGE = r"(?:\[(?:Pg|Page|p\.)[ ]?(?:\d{1,4}|[ivxlc]{1,8})\]|\{(?:Pg[ ]|p\.[ ]?)?\d{1,4}\})"
_PAGE_LINES = re.compile(rf"^[ \t]*{_PAGE}[ \t]*(?:\n|\Z)", re.MULTILINE | re.IGNORECASE)
_PAGES = re.compile(rf"([ \t]?){_PAGE}([ \t]?)", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){3,}")


def _books(text: str) -> list[str] | None:
  """The texts between the borders; None if there are no borders."""
  lines = text.split("\n")
  borders = [(place, border.lastgroup) for place, line in enumerate(lines) if (border := _BORDER.match(line))]
  if not borders:
    return None
  place, kind = borders[0]
  # Before the first border is a book if that ends one: by its kind, or as small print at the end of the file.
  inside = kind == "end" or kind == "small_print" and place > len(lines) // 2
  books, begin = list[str](), 0
  for place, kind in [*borders, (len(lines), "end")]:
    if inside:
      books.append("\n".join(lines[begin:place]))
    inside, begin = kind == "start", place + 1
  return books


def _without_credits(book: str) -> str:
  paragraphs = book.strip("\n").split("\n\n", _FRONT)
  return "\n\n".join([paragraph for place, paragraph in enumerate(paragraphs)
                      if place == _FRONT or not _CREDITS.match(paragraph.lstrip())])


def _without_page(match: re.Match[str]) -> str:
  at_start = match.start() == 0 or match.string[match.start() - 1] == "\n"
  return "" if at_start else match.group(1) or match.group(2)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Gutenberg:
  """Takes from a book of Project Gutenberg what is not the author's; other documents stay as they are.

  Header and licence go, of present files ("*** START OF", "*** END OF") and of older ones (the "small print", "End of
  Project Gutenberg's"), and the credits of those who typed and read it. In the book, page numbers ("[Pg 12]", "{12}"),
  illustrations and notes of transcribers go, as do blank lines after the third in a row. A file of several books keeps
  them all. A document is a book by these borders, whose lines must begin with them; a file with none is left alone.

  The reason "no_book" is that of a file with borders and nothing between them.
  """

  def __call__(self, document: Document) -> Document | Dropped:
    upper = document.text.upper()
    if "PROJECT GUTENBERG" not in upper and "THE SMALL PRINT" not in upper:  # Most documents: this is fast.
      return document
    books = _books(document.text)
    if books is None:
      return document
    text = _REMARKS.sub("", "\n\n\n\n".join(map(_without_credits, books)))
    text = _PAGES.sub(_without_page, _PAGE_LINES.sub("", text))
    text = _BLANK_LINES.sub("\n\n\n\n", text).strip("\n")
    return document.with_text(text) if text.strip() else Dropped("no_book")
