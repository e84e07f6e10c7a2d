"""Documents with the places of names in them, which denoising hides as a whole."""

from collections.abc import Mapping, Sequence
import functools
import itertools
import json
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data import entities
from gpt4x.data.bad_records import BadRecords
from gpt4x.data.entities import Matcher, Spans
from gpt4x.data.local_graph import LocalGraph
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.data.objects import Stat
from gpt4x.data.triple_files import read_names
from gpt4x.errors import UserError


class NamedTextSource(LocalTextSource):
  """Documents {"name", "text", "spans"} of LocalText, which other names of LocalGraph make others.

  "spans" is JSON: the (start, stop) of what LocalText.entities annotates, in characters.
  """

  beside = {"spans": lambda text: json.dumps(getattr(text, "spans", ())).encode()}

  def fingerprint_parts(self) -> dict[str, Any]:
    corpus, found = self.corpus, {**super().fingerprint_parts(), "names": LocalGraph().find_names()}
    return found | {"entities": (corpus.entities, corpus.offsets)} if corpus.entities else found


def find_names(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
  """A seqio preprocessor: {"text", "spans"} to {"targets"}, ids, and {"names"}, [k, 2], where names stand.

  Those are the annotated spans, and beside them names of LocalGraph.names. A name is encoded by itself, so that all of
  its tokens are its own.
  """
  vocabulary, files = output_features["targets"].vocabulary, LocalGraph().find_names()
  matcher = Matcher(()) if LocalText().entities and not files else matcher_of(files)

  def made(content: bytes, spans: bytes) -> list[np.ndarray]:
    annotated, text = [(start, stop) for start, stop in json.loads(spans)], content.decode()
    return list(tokens_and_names(text, entities.joined(annotated, matcher.spans(text)), vocabulary))

  def convert(document: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    ids, names = tf.numpy_function(made, [document["text"], document["spans"]], [tf.int32, tf.int32])
    return {"targets": tf.ensure_shape(ids, [None]), "names": tf.ensure_shape(names, [None, 2])}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def tokens_and_names(text: str, spans: Spans, vocabulary: Any) -> tuple[np.ndarray, np.ndarray]:
  """The ids [n] of a text, and the places [k, 2] of names among them, by their spans of characters."""
  bounds = [0, *itertools.chain.from_iterable(spans), len(text)]
  parts = [list(vocabulary.encode(text[start:stop])) if start < stop else []
           for start, stop in itertools.pairwise(bounds)]
  stops: Sequence[int] = np.cumsum([len(part) for part in parts]).tolist()
  ids = np.array(list(itertools.chain.from_iterable(parts)), np.int32)
  return ids, np.array([stops[i - 1:i + 1] for i in range(1, len(parts), 2)], np.int32).reshape(-1, 2)


@functools.lru_cache(maxsize=2)
def matcher_of(files: tuple[Stat, ...]) -> Matcher:
  """What finds the names that files have; a UserError if they have none."""
  names, _ = read_names(files, BadRecords("raise", "LocalGraph.on_bad_record"))
  if not names:
    raise UserError("there are no names to hide: set LocalGraph.names to files with id<TAB>name on each line, or"
                    " LocalText.entities to the field of JSON records that says where they stand")
  return Matcher(names.values())
