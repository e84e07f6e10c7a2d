"""Triples as sentences, from either end: what is asked, and what answers it."""

from collections.abc import Mapping
import re
from typing import NamedTuple


class Phrase(NamedTuple):
  """A sentence about an entity that ends with another: `{before}ENTITY{between}OTHER{after}`."""

  before: str
  between: str
  after: str

  def prompt(self, name: str) -> str:
    """The sentence up to the answer, without the space before that."""
    return f"{self.before}{name}{self.between.rstrip()}"

  def answer(self, name: str) -> str:
    """The rest of the sentence, with that space: vocabularies have pieces that begin with one."""
    return f"{self.between[len(self.between.rstrip()):]}{name}{self.after}"


class Phrases:
  """The phrases of relations: those of templates, or readable ones made of the relation's name."""

  def __init__(self, templates: Mapping[tuple[str, bool], str]):
    """Takes templates by relation and by whether the tail comes first."""
    self._templates = templates
    self._made = dict[tuple[str, bool], Phrase]()

  def __call__(self, relation: str, backwards: bool = False) -> Phrase:
    """The phrase that asks for a relation's tail or, backwards, for its head."""
    key = relation, backwards
    if key not in self._made:
      template = self._templates.get(key) or f"{{head}}, {readable(relation)}: {{tail}}"
      if backwards and key not in self._templates:
        template = f"{{tail}}, {readable(relation)} of: {{head}}"
      before, between, after = re.split(r"\{head\}|\{tail\}", template)
      self._made[key] = Phrase(before, between, after)
    return self._made[key]


def readable(relation: str) -> str:
  """`_member_meronym`, `/people/person/place_of_birth`, `isLocatedIn` and `http://x/y#partOf` as words."""
  last = re.split(r"[/#:]", relation.rstrip("/#:"))[-1]
  words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", last).replace("_", " ").split()
  if len(words) > 1 and all(word[:1].islower() or word.istitle() for word in words):
    words = [word.lower() for word in words]
  return " ".join(words) or relation
