"""Knowledge as triples, on this machine or in a bucket, as a seqio source, and the preprocessor of such."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, Literal

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data import named_files, triple_files, triple_graph
from gpt4x.data.bad_records import BadRecords
from gpt4x.data.held_out import held_out, MANY, PERCENT
from gpt4x.data.objects import Stat
from gpt4x.data.record_source import RecordSource
from gpt4x.data.task_examples import say_once
from gpt4x.data.text_files import shown
from gpt4x.data.triple_files import Triple
from gpt4x.data.triple_graph import Graph, SPLITS, Text
from gpt4x.data.triple_phrases import Phrases
from gpt4x.errors import require, UserError

READER = 1  # Raise it whenever other examples are found in the same files.
# What a task has of a triple: a text for pre-training; a question of which the answer alone is trained on; what
# describes its ends.
Kind = Literal["documents", "questions", "descriptions"]
_Files = tuple[Stat, ...]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalGraph:
  """Which files make a graph of knowledge (`triple_files.py`).

  Attributes:
    files: a glob, or several, of paths or of URLs (`gs://`, `s3://`); `**` stands for folders of any depth.
    validation_files: globs of the validation split. Without them 5% of the triples are held out, by a hash of both
      ends: a triple and its reverse are on the same side.
    test_files: globs of the test split, which nothing is trained on; without them there is none.
    names: globs of files with `id<TAB>name` or `id<TAB>name<TAB>description` on each line.
    templates: globs of files with `relation<TAB>{head} is a kind of {tail}`; with `{tail}` first, for the other way.
    neighbours: sentences about what else is known of an entity, at most, before a question about it.
    language: that of the labels and descriptions of Wikidata's dumps.
    on_bad_record: `raise` ends a run at a line that cannot be used; `skip` leaves it out and counts it.
  """

  files: str | Sequence[str] = ()
  validation_files: str | Sequence[str] = ()
  test_files: str | Sequence[str] = ()
  names: str | Sequence[str] = ()
  templates: str | Sequence[str] = ()
  neighbours: int = 0
  language: str = "en"
  on_bad_record: Literal["raise", "skip"] = "raise"

  def __post_init__(self):
    require(self, "'raise' or 'skip'", lambda policy: policy in ("raise", "skip"), "on_bad_record")
    require(self, "a whole number of at least 0", lambda count: isinstance(count, int) and count >= 0, "neighbours")

  def find(self) -> dict[str, _Files]:
    """The files of each split and of what is beside them; no file of triples is in two of them."""
    train, validation = named_files.find(self, "files of triples", "graph/*.tsv")
    beside = {name: self._matched(name) for name in ("test_files", "names", "templates")}
    apart = {stat for files in beside.values() for stat in files}
    train = tuple(stat for stat in train if stat not in apart)
    if not train:
      raise UserError(f"LocalGraph.files = {self.files!r} leaves no file to train on beside those for tests, names and"
                      " templates")
    if both := apart & set(validation):
      raise UserError(f"LocalGraph.validation_files = {self.validation_files!r} has {shown(min(both)[0])}, which"
                      " another parameter names too: name it once")
    return {"files": train, "validation_files": validation, **beside}

  def find_names(self) -> tuple[Stat, ...]:
    """The files of names."""
    return self._matched("names")

  def _matched(self, name: str) -> tuple[Stat, ...]:
    patterns = getattr(self, name)
    return tuple(sorted(named_files.match(f"LocalGraph.{name}", patterns).values())) if patterns else ()

  def read(self) -> Graph:
    """The graph that the files hold, checked; the same object while they stay as they are."""
    found = self.find()
    return _graph(*found.values(), self.neighbours, self.language, self.on_bad_record, repr(self.files))

  @property
  def descriptions(self) -> Mapping[str, str]:
    """What describes the entities of the files, by their ids."""
    found = self.find()
    return _beside(found["files"] + found["validation_files"] + found["test_files"], found["names"], self.language,
                   self.on_bad_record)[1]


class LocalGraphSource(RecordSource):
  """Records of questions in words, placed by their triple; with the splits of `SPLITS`."""

  def __init__(self, kind: Kind, local: LocalGraph | None = None):
    """Takes the files to read; None means gin's `LocalGraph` at the time of reading."""
    super().__init__(splits=SPLITS)
    self._kind, self._local = kind, local

  def num_input_examples(self, split: str) -> int:
    return len(self._local_graph.triples[split]) * 2 + len(self._described(split))

  def fingerprint_parts(self) -> dict[str, Any]:
    """Every file with its size and its time or hash, what is held out, and what of them is read."""
    local = self._local or LocalGraph()
    return {**local.find(), "held_out": (PERCENT, MANY),
            "reader": (READER, self._kind, local.neighbours, local.language, local.on_bad_record)}

  def records(self, split: str, seed: int | None = None) -> Iterator[tuple[str, str]]:
    """(the triple, JSON of the `Text`) for each question of a split; what describes entities comes last."""
    del seed  # All of it is the same in each epoch.
    graph = self._graph_of(split)

    def made() -> Iterator[tuple[str, str]]:
      for question in graph.questions(split):
        yield " ".join(question.triple), json.dumps(graph.text(question))
      for entity, description in self._described(split):
        yield entity, json.dumps(Text((), graph.name(entity), f": {description}"))

    return made()

  @property
  def _local_graph(self) -> Graph:
    return (self._local or LocalGraph()).read()

  def _graph_of(self, split: str) -> Graph:
    """The graph, if it has something of a split; else a UserError."""
    if not self._local_graph.triples[split]:
      parameter = "test_files" if split == "test" else "validation_files"
      raise UserError(f"there are no triples for the split {split}: set LocalGraph.{parameter}, or name another split")
    return self._local_graph

  def _described(self, split: str) -> list[tuple[str, str]]:
    """Entities with their descriptions, which are texts for pre-training alone."""
    if self._kind != "documents" or split != "train":
      return []
    descriptions = (self._local or LocalGraph()).descriptions
    return [(one, descriptions[one]) for one in self._local_graph.entities if one in descriptions]


@functools.lru_cache(maxsize=8)
def _read(files: _Files, language: str, policy: str) -> triple_files.Found:
  bad = BadRecords(policy, "LocalGraph.on_bad_record")
  found = triple_files.read_triples(files, language, bad)
  bad.report(found.records + bad.count, "records")
  return found


@functools.lru_cache(maxsize=8)
def _beside(files: _Files, names: _Files, language: str, policy: str) -> tuple[dict[str, str], dict[str, str]]:
  """Names and descriptions by id: those of names files, else of dumps."""
  bad, found = BadRecords(policy, "LocalGraph.on_bad_record"), _read(files, language, policy)
  named, described = triple_files.read_names(names, bad)
  bad.report(len(named) + bad.count, "names")
  return found.names | named, found.descriptions | described


@functools.lru_cache(maxsize=4)
def _graph(files: _Files, validation_files: _Files, test_files: _Files, names: _Files, templates: _Files,
           neighbours: int, language: str, policy: str, parameter: str) -> Graph:
  bad = BadRecords(policy, "LocalGraph.on_bad_record")
  train, validation, test = (list(_read(some, language, policy).triples) if some else []
                             for some in (files, validation_files, test_files))
  if not validation_files:
    out = held_out({_ends(triple) for triple in train})
    train, validation = ([triple for triple in train if (_ends(triple) in out) == side] for side in (False, True))
  tested = set(test)
  apart = tested | set(validation)
  twice = sum(triple in apart for triple in train)
  if twice:
    say_once(f"gpt4x: warning: {twice:,} triples of LocalGraph.files are not trained on, for they are in the validation"
             " or the test split too")
  train = [triple for triple in train if triple not in apart]
  validation = [triple for triple in validation if triple not in tested]
  if not train or not validation:
    raise UserError(f"LocalGraph.files = {parameter} leaves no triples for the split"
                    f" {'validation' if train else 'train'}: set LocalGraph.validation_files, or name more files")
  called, described = _beside(files + validation_files + test_files, names, language, policy)
  graph = Graph({"train": train, "validation": validation, "test": test}, {},
                Phrases(triple_files.read_templates(templates, bad)), neighbours)
  return dataclasses.replace(graph, names=triple_graph.unique_names(graph.entities, called, described))


def _ends(triple: Triple) -> str:
  """What a triple and its reverse have in common."""
  return "\t".join(sorted((triple.head, triple.tail)))


def question_ids(text: Text, vocabulary: seqio.Vocabulary, room: int | None = None) -> tuple[list[int], list[int]]:
  """The ids of a prompt, after as many sentences of its context as leave room for all, and those of the answer.

  The sentences that are left out are the last ones; each ends with its line.
  """
  answer = encoded(text.answer, vocabulary) + ([] if vocabulary.eos_id is None else [vocabulary.eos_id])
  return prompt_ids(text, vocabulary, None if room is None else room - len(answer)), answer


def prompt_ids(text: Text, vocabulary: seqio.Vocabulary, room: int | None = None) -> list[int]:
  """The ids of a prompt, after as much of its context as leaves room for it."""
  prompt, before = encoded(text.prompt, vocabulary), list[int]()
  left = (1 << 30 if room is None else room) - len(prompt)
  for sentence in text.context:
    ids = encoded(f"{sentence}\n", vocabulary)
    if len(before) + len(ids) > left:
      break
    before += ids
  return before + prompt


def encoded(text: str, vocabulary: seqio.Vocabulary) -> list[int]:
  return list(vocabulary.encode(text))


def triple_tokens(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
                  sequence_length: Mapping[str, int] | None, kind: Kind = "questions") -> tf.data.Dataset:
  """A seqio preprocessor: {"record"}, JSON of a `Text`, to {"targets"}; of questions also {"weights"}, 1 for answers.

  Where a length is given, a question's context is cut to it, not its answer.
  """
  vocabulary, room = output_features["targets"].vocabulary, (sequence_length or {}).get("targets")

  def made(line: bytes) -> tuple[np.ndarray, np.ndarray]:
    prompt, answer = question_ids(Text(*json.loads(line)), vocabulary, room if kind == "questions" else None)
    return np.array(prompt + answer, np.int32), np.array([0] * len(prompt) + [1] * len(answer), np.int32)

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    targets, weights = (tf.ensure_shape(one, [None])
                        for one in tf.numpy_function(made, [example["record"]], [tf.int32, tf.int32]))
    return {"targets": targets} if kind == "documents" else {"targets": targets, "weights": weights}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
