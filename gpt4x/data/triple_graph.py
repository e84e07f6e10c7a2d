"""A graph of triples: which are known, what is asked of them, and what else is known of an entity that is asked about.

What is known is what is trained on. A triple of any other split is in no question's context, and in no training text,
even where a file has it twice; only its reverse may be known, where that is a triple for training itself.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import NamedTuple
import zlib

from gpt4x.data.triple_files import Triple
from gpt4x.data.triple_phrases import Phrases

SPLITS = "train", "validation", "test"


class Question(NamedTuple):
  """An entity that is asked for what a relation leads to or, backwards, for what it comes from; and the answer."""

  entity: str
  relation: str
  backwards: bool
  answer: str

  @property
  def triple(self) -> Triple:
    head, tail = (self.answer, self.entity) if self.backwards else (self.entity, self.answer)
    return Triple(head, self.relation, tail)


class Text(NamedTuple):
  """A question in words: sentences about what is known, the most useful first; the prompt; the answer."""

  context: tuple[str, ...]
  prompt: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Graph:
  """The triples of each split, and how they are put into words.

  Attributes:
    triples: of each of SPLITS; none is in two of them.
    names: what entities are called, each another name; those that are not here, by their id.
    phrases: the words of relations.
    neighbours: sentences of a question's context, at most.
  """

  triples: Mapping[str, Sequence[Triple]]
  names: Mapping[str, str]
  phrases: Phrases
  neighbours: int = 0

  def name(self, entity: str) -> str:
    return self.names.get(entity, entity)

  @functools.cached_property
  def entities(self) -> list[str]:
    """All that triples of any split relate, in order of their first: the candidates for an answer."""
    return list(dict.fromkeys(end for split in SPLITS for triple in self.triples[split]
                              for end in (triple.head, triple.tail)))

  @functools.cached_property
  def known(self) -> frozenset[Triple]:
    """The triples that are trained on."""
    return frozenset(self.triples["train"])

  def questions(self, split: str) -> Iterator[Question]:
    """Those of each triple of a split: for its tail, then for its head."""
    for head, relation, tail in self.triples[split]:
      yield Question(head, relation, False, tail)
      yield Question(tail, relation, True, head)

  def reverse_is_known(self, question: Question) -> bool:
    """Whether the same relation is known the other way round."""
    head, relation, tail = question.triple
    return Triple(tail, relation, head) in self.known

  @functools.cached_property
  def answers(self) -> dict[tuple[str, str, bool], set[str]]:
    """The answers that any split has for (entity, relation, backwards)."""
    found = dict[tuple[str, str, bool], set[str]]()
    for split in SPLITS:
      for question in self.questions(split):
        found.setdefault(question[:3], set()).add(question.answer)
    return found

  def text(self, question: Question) -> Text:
    """A question in words, with what is known of its entity beside the triple itself."""
    phrase = self.phrases(question.relation, question.backwards)
    context = self._neighbourhood.of(question, self.neighbours) if self.neighbours else []
    return Text(tuple(self.sentence(one) for one in context), phrase.prompt(self.name(question.entity)),
                phrase.answer(self.name(question.answer)))

  def sentence(self, question: Question) -> str:
    """A triple as a sentence, from the end that is asked."""
    phrase = self.phrases(question.relation, question.backwards)
    return phrase.prompt(self.name(question.entity)) + phrase.answer(self.name(question.answer))

  @functools.cached_property
  def _neighbourhood(self) -> "Neighbourhood":
    return Neighbourhood(self.known)


class Neighbourhood:
  """What is known of each entity, in an order that no question's answer has a part in."""

  def __init__(self, known: Collection[Triple]):
    self._known = known
    lists = dict[str, dict[tuple[str, bool], list[str]]]()
    for head, relation, tail in known:
      lists.setdefault(head, {}).setdefault((relation, False), []).append(tail)
      lists.setdefault(tail, {}).setdefault((relation, True), []).append(head)
    self._lists = {entity: {key: sorted(others, key=_order) for key, others in sorted(some.items())}
                   for entity, some in lists.items()}

  def of(self, question: Question, count: int) -> list[Question]:
    """Up to so many other known triples with the entity that is asked about.

    First the same relation the other way round, where it is known that way alone; then the same relation; then one of
    each other relation in turn. The triple itself counts as unknown, in training too.
    """
    entity, relation, backwards, answer = question
    own = self._lists.get(entity, {})
    same, opposite = (relation, backwards), (relation, not backwards)
    one_way = self._one_way(entity, opposite)
    if self._reciprocated(question):
      one_way = [*one_way[:count], answer]
      one_way.sort(key=_order)
    others = [own[key] for key in own if key not in (same, opposite)]
    names = [key for key in own if key not in (same, opposite)]
    in_turn = ((*names[i], one) for turn in itertools.zip_longest(*others) for i, one in enumerate(turn)
               if one is not None)
    found = itertools.chain(((*opposite, one) for one in one_way),
                            ((*same, one) for one in own.get(same, ()) if one != answer), in_turn)
    return [Question(entity, *one) for one in itertools.islice(found, count)]

  def _reciprocated(self, question: Question) -> bool:
    """Whether the triple is known, and its reverse another that is."""
    head, relation, tail = question.triple
    return head != tail and question.triple in self._known and Triple(tail, relation, head) in self._known

  @functools.cache  # noqa: B019  As long-lived as the graph.
  def _one_way(self, entity: str, key: tuple[str, bool]) -> list[str]:
    """What a relation leads to and does not come from, if it is known at all."""
    relation, backwards = key
    return [other for other in self._lists.get(entity, {}).get(key, ())
            if Question(entity, relation, not backwards, other).triple not in self._known]


def _order(entity: str) -> tuple[int, str]:
  return zlib.crc32(entity.encode()), entity


def unique_names(entities: Iterable[str], names: Mapping[str, str], descriptions: Mapping[str, str]) -> dict[str, str]:
  """A name for each entity that no other has: where several are called alike, what describes one, or its id, is added.

  An entity without a name is called by its id.
  """
  named = {one: names.get(one, one) for one in entities}
  described = {one: f"{name} ({descriptions[one]})" if one in descriptions else name for one, name in named.items()}
  for longer in (described, {one: f"{name} ({one})" for one, name in named.items()}):
    counts = dict[str, int]()
    for name in named.values():
      counts[name] = counts.get(name, 0) + 1
    named = {one: longer[one] if counts[name] > 1 else name for one, name in named.items()}
  return named
