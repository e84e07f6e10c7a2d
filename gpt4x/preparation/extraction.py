"""The text of pages: from HTML, from wiki markup, and from bytes in whatever charset."""

from collections.abc import Callable
import dataclasses
import re
from typing import Literal

import gin

from gpt4x.errors import one_line, refuse, require, UserError
from gpt4x.preparation import killable
from gpt4x.preparation.decoding import decoded, lines_unified
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.libraries import library
from gpt4x.preparation.wiki_text import wiki_text

_HTML = {"text/html", "application/xhtml+xml"}
_WIKI = "text/x-wiki"
_LIBRARIES = {"standard": ("trafilatura", "mwparserfromhell"),
              "fast": ("resiliparse.extract.html2text", "mwparserfromhell")}
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Extract:
  """Fills in the text of a document from its content, which it then has no more; documents with text stay as they are.

  HTML and wiki markup are read in a child process, for a page can have a parser hang or crash. The content's type is
  the field "content_type", and HTML where that is missing; see `decoding` for its charset.

  Drops documents for these reasons: "no_text"; "content_type", which is none of HTML, XHTML, wiki markup and plain
  text; "extraction_timeout"; "extraction_crash" of the child; "extraction_error", with what the library said.

  Attributes:
    mode: "standard", trafilatura's choice between precision and recall (Barbaresi, 2021); or "fast", the main content
      by resiliparse (Bevendorff et al., 2018), about ten times as fast.
    tables: whether the standard mode keeps the texts of tables.
    timeout: seconds that a document may take.
  """

  mode: Literal["standard", "fast"] = "standard"
  tables: bool = True
  timeout: float = 20.0

  def __post_init__(self):
    refuse(self, self.mode not in _LIBRARIES, "mode", "must be 'standard' or 'fast'")
    require(self, "seconds above 0", lambda value: 0 < value < float("inf"), "timeout")

  def __call__(self, document: Document) -> Document | Dropped:
    if document.text:
      return document
    if not document.content:
      return Dropped("no_text")
    kind = str(document.fields.get("content_type") or "text/html").partition(";")[0].strip().lower()
    if kind in _HTML:
      page = decoded(document.content, document.fields.get("charset"))
      found = self._safely(standard_text, page, self.tables) if self.mode == "standard" else self._safely(
          fast_text, page)
    elif kind == _WIKI:
      found = self._safely(wiki_text, document.content)
    elif kind == "text/plain":
      found = decoded(document.content, document.fields.get("charset"))
    else:
      return Dropped("content_type", kind)
    if isinstance(found, Dropped):
      return found
    text = lines_unified(found).strip("\n")
    if not text.strip():
      return Dropped("no_text")
    return dataclasses.replace(document, text=text, content=b"")

  def _safely(self, extract: Callable[..., str], *content: str | bytes | bool) -> str | Dropped:
    try:
      return killable.child().call(extract, *content, timeout=self.timeout, modules=_LIBRARIES[self.mode])
    except TimeoutError:
      return Dropped("extraction_timeout", self.timeout)
    except killable.Crash as crash:
      return Dropped("extraction_crash", str(crash))
    except UserError:  # A library is missing.
      raise
    except Exception as error:  # Libraries raise many kinds at odd pages.  pylint: disable=broad-exception-caught
      return Dropped("extraction_error", one_line(f"{type(error).__name__}: {error}"))


def standard_text(page: str, tables: bool) -> str:
  """The main text of a page by trafilatura; empty if it finds none."""
  trafilatura = library("trafilatura", "Extract.mode = 'standard'")
  # A declaration is of the bytes that the page was; lxml refuses a text with one.
  return trafilatura.extract(_DECLARATION.sub("", page, count=1), include_comments=False, include_tables=tables) or ""


def fast_text(page: str) -> str:
  """The main text of a page by resiliparse; empty if it finds none."""
  html2text = library("resiliparse.extract.html2text", "Extract.mode = 'fast'")
  return html2text.extract_plain_text(page, main_content=True, alt_texts=False)
