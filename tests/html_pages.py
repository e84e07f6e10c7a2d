"""What an HTML page holds, and that it needs nothing else."""

import collections
from html.parser import HTMLParser
import re

_EMPTY = {"meta", "br", "img", "link", "hr", "input"}  # They have no end.


class Page(HTMLParser):
  """The text of a page, how many there are of each element, and its attributes."""

  def __init__(self):
    super().__init__()
    self.text, self.tags, self.attributes, self.open = "", collections.Counter(), [], []

  def handle_starttag(self, tag, attrs):
    self.tags[tag] += 1
    self.attributes += [(tag, name, value or "") for name, value in attrs]
    if tag not in _EMPTY:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in _EMPTY:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f"</{tag}> ends what is not open"

  def handle_data(self, data):
    if "style" in self.open:
      assert "url(" not in data.replace("url(#", "") and "@import" not in data
    self.text += data


def check(content: str) -> Page:
  """The page, whose elements are closed, and which loads nothing and runs nothing."""
  page = Page()
  page.feed(content)
  page.close()
  assert not page.open, f"{page.open} are left open"
  assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & page.tags.keys()
  for tag, name, value in page.attributes:
    if (tag, name) == ("img", "src"):
      assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", value), "a picture is in the page itself"
      continue
    assert not name.startswith("on"), f"<{tag} {name}> runs {value}"
    assert "//" not in value and "javascript:" not in value, f"<{tag} {name}> leads to {value}"
    if name.split(":")[-1] in ("href", "src"):
      assert value.startswith("#")
    assert "url(" not in value.replace("url(#", "")
  return page
