"""Triples by what describes their ends: a seqio source, and its preprocessor, of texts to be encoded apart."""

from collections.abc import Iterator, Mapping
import itertools
import json
import random

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data.local_graph import encoded, LocalGraph, LocalGraphSource
from gpt4x.data.triple_graph import Graph
from gpt4x.data.triple_phrases import readable
from gpt4x.errors import UserError


class DescribedTriplesSource(LocalGraphSource):
  """Records {"record", "place"}: the texts of head, relation, tail and another entity, as JSON, for each triple.

  The other entity takes the place of the tail, or of the head, as the seed of the epoch has it; no known triple is made
  in this way.
  """

  def __init__(self, local: LocalGraph | None = None):
    super().__init__("descriptions", local)

  def num_input_examples(self, split: str) -> int:
    return len(self._local_graph.triples[split])

  def records(self, split: str, seed: int | None = None) -> Iterator[tuple[str, str]]:
    graph, rng = self._graph_of(split), random.Random(0 if seed is None else seed)
    descriptions = (self._local or LocalGraph()).descriptions
    if len(graph.entities) < 3:
      raise UserError(f"the graph has {len(graph.entities)} entities, of which none can take the place of another: name"
                      " more LocalGraph.files")

    def text(entity: str) -> str:
      name = graph.name(entity)
      return f"{name}: {descriptions[entity]}" if entity in descriptions else name

    def made() -> Iterator[tuple[str, str]]:
      for head, relation, tail in graph.triples[split]:
        is_head = rng.random() < 0.5
        other = _other(graph, (tail, relation, True) if is_head else (head, relation, False), rng)
        record = {"texts": [text(head), readable(relation), text(tail), text(other)],
                  "is_head": is_head}
        yield f"{head} {relation} {tail}", json.dumps(record)

    return made()


def _other(graph: Graph, question: tuple[str, str, bool], rng: random.Random) -> str:
  """An entity that is no known answer, if one of a hundred draws is none."""
  drawn = (rng.choice(graph.entities) for _ in itertools.count())
  known = graph.answers[question]
  return next((one for one in itertools.islice(drawn, 100) if one not in known), rng.choice(graph.entities))


def description_tokens(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
                       sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
  """A seqio preprocessor: {"record"} to {"targets", "weights", "segments"}; see `objectives/joint_embedding.py`.

  Sequences 1, 2 and 3 are head, relation and tail, 4 another tail or 5 another head. Each is cut to a fourth of the
  length, and ends as a document does.
  """
  vocabulary = output_features["targets"].vocabulary
  end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
  room = (sequence_length or {}).get("targets", 1 << 30) // 4 - len(end)
  if room < 1:
    raise UserError(f"TASK_FEATURE_LENGTHS = {dict(sequence_length or {})} has no room for four texts: raise it")

  def made(line: bytes) -> list[np.ndarray]:
    record = json.loads(line)
    ids = [encoded(text, vocabulary)[:room] + end for text in record["texts"]]
    numbers = [number for number, one in zip((1, 2, 3, 5 if record["is_head"] else 4), ids) for _ in one]
    targets = np.array(list(itertools.chain.from_iterable(ids)), np.int32)
    return [targets, np.ones_like(targets), np.array(numbers, np.int32)]

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    found = tf.numpy_function(made, [example["record"]], [tf.int32] * 3)
    return dict(zip(("targets", "weights", "segments"), (tf.ensure_shape(one, [None]) for one in found)))

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


description_tokens.sequences = "triples"  # type: ignore[attr-defined]  # Which an objective has to be for.
