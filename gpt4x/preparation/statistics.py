"""Counts of who is spoken of in documents, and from where and when these are, for a person to read."""

from collections import Counter
from collections.abc import Collection, Mapping
import copy
import re
from typing import Any
import urllib.parse

import gin

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document

PRONOUNS = {
    "feminine": ("she", "her", "hers", "herself"),
    "masculine": ("he", "him", "his", "himself"),
    "plural": ("they", "them", "their", "theirs", "themselves", "themself"),
}
GROUPS = {
    "women": ("woman", "women", "girl", "girls"), "men": ("man", "men", "boy", "boys"),
    "Buddhists": ("buddhist", "buddhists"), "Christians": ("christian", "christians"), "Hindus": ("hindu", "hindus"),
    "Jews": ("jew", "jews", "jewish"), "Muslims": ("muslim", "muslims"), "atheists": ("atheist", "atheists"),
    "Africans": ("african", "africans"), "Asians": ("asian", "asians"), "Europeans": ("european", "europeans"),
    "immigrants": ("immigrant", "immigrants", "refugee", "refugees"),
    "gay and lesbian people": ("gay", "gays", "lesbian", "lesbians", "homosexual", "homosexuals"),
    "disabled people": ("disabled", "disability", "blind", "deaf"),
}
# Words that are frequent everywhere. Pronouns are left out: which of them stand near a group is of interest.
COMMON = frozenset([
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have",
    "how", "if", "in", "into", "is", "it", "its", "just", "like", "made", "may", "me", "might", "more", "most",
    "much", "must", "my", "no", "not", "now", "of", "on", "one", "only", "or", "other", "our", "out", "over",
    "said", "shall", "should", "so", "some", "such", "than", "that", "the", "then", "there", "these", "this",
    "those", "through", "to", "under", "up", "upon", "us", "very", "was", "we", "were", "what", "when", "where",
    "which", "who", "whom", "whose", "why", "will", "with", "without", "would", "you", "your", "i", "d", "ll", "m",
    "n", "re", "s", "t", "ve"])
_WORD = re.compile(r"[^\W\d_]+")
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")


@gin.configurable
class Statistics:
  """Counts over documents; those of parts can be added up in any order.

  The words near the names of groups show what a text says of them (Brown et al. 2020, arXiv:2005.14165, section 6.2).
  They are counts of words, not of meanings: "her" is one word for two cases, "black" and "white" are mostly colours and
  so no groups here. The lists are English.
  """

  def __init__(self, groups: Mapping[str, tuple[str, ...]] = GROUPS, window: int = 5,
               common: Collection[str] = COMMON):
    """Begins with no documents.

    Args:
      groups: names of groups, and their words in small letters; a word is in one group.
      window: words before and behind a group's that count as near, within a document.
      common: words in small letters that are not counted near a group, though they take a place in the window.

    Raises UserError if a word is in two groups, or the window is negative.
    """
    self._group = {word: group for group, words in groups.items() for word in words}
    if len(self._group) < sum(map(len, groups.values())):
      raise UserError("Statistics.groups has a word twice: put each into one group")
    if any(_WORD.fullmatch(word) is None or word != word.lower() for word in self._group):
      raise UserError('Statistics.groups has what is no single word in small letters: write "woman", not "Women"')
    if window < 0:
      raise UserError(f"Statistics.window = {window!r} must be at least 0")
    self._groups = {group: tuple(words) for group, words in groups.items()}
    self._window, self._common = window, frozenset(common)
    self._pronoun = {word: kind for kind, words in PRONOUNS.items() for word in words}
    self.documents = self.words = 0
    self.pronouns = Counter[str]()
    self.groups = Counter[str]()
    self.near = {group: Counter[str]() for group in groups}
    self.domains = Counter[str]()
    self.years = Counter[str]()

  def add(self, document: Document) -> None:
    """Counts a document, with the domain of its field "url" and the year of its field "date", if it has them."""
    words = _WORD.findall(document.text.lower())
    self.documents += 1
    self.words += len(words)
    for place, word in enumerate(words):
      if word in self._pronoun:
        self.pronouns[self._pronoun[word]] += 1
      elif word in self._group:
        group = self._group[word]
        self.groups[group] += 1
        around = words[max(0, place - self._window):place] + words[place + 1:place + 1 + self._window]
        self.near[group].update([near for near in around if near not in self._common])
    if domain := _domain(document.fields.get("url")):
      self.domains[domain] += 1
    if year := _YEAR.search(str(document.fields.get("date") or "")):
      self.years[year.group()] += 1

  def merge(self, other: "Statistics") -> None:
    """Adds the counts of other documents. Raises UserError if they were made with other parameters."""
    if (self._groups, self._window, self._common) != (other._groups, other._window, other._common):
      raise UserError("Statistics of other parameters cannot be added up: count again with the same ones")
    self.documents += other.documents
    self.words += other.words
    for mine, theirs in ((self.pronouns, other.pronouns), (self.groups, other.groups), (self.domains, other.domains),
                         (self.years, other.years), *((self.near[group], other.near[group]) for group in self.near)):
      mine.update(theirs)

  def to_json(self, most: int | None = 50) -> dict[str, Any]:
    """The counts in JSON's types: years in their order, the `most` frequent of others, or all; equal ones by alphabet.
    """
    return {
        "documents": self.documents, "words": self.words, "pronouns": {kind: self.pronouns[kind] for kind in PRONOUNS},
        "groups": {group: {"count": self.groups[group], "near": _frequent(self.near[group], most)}
                   for group in self._groups},
        "domains": _frequent(self.domains, most), "years": dict(sorted(self.years.items()))}

  def from_json(self, found: Mapping[str, Any]) -> "Statistics":
    """Statistics of the same parameters with the counts that `to_json(None)` gave."""
    other = copy.deepcopy(self)
    other.documents, other.words = found["documents"], found["words"]
    other.pronouns, other.domains, other.years = (Counter(found[name]) for name in ("pronouns", "domains", "years"))
    other.groups = Counter({group: of["count"] for group, of in found["groups"].items()})
    other.near = {group: Counter(of["near"]) for group, of in found["groups"].items()}
    return other


def _frequent(counts: Counter[str], most: int | None) -> dict[str, int]:
  return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])


def _domain(url: Any) -> str:
  """The host of a URL, in small letters, without "www."; "" for none."""
  try:
    host = urllib.parse.urlsplit(url if isinstance(url, str) else "").hostname or ""
  except ValueError:  # Such as "http://[".
    return ""
  return host.removeprefix("www.").rstrip(".")
