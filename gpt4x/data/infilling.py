"""Fill in the middle (arXiv:2207.14255): documents of which parts are told in another order, before they are tokens.

A part of a text is cut in three at any characters, and its middle comes last. A model of such documents, a decoder that
only ever says the next token, fills in what is missing between two texts:

  PSM    <prefix> what is before <suffix> what is behind <middle> the middle <end>
  SPM    <prefix><suffix> what is behind <middle> what is before, the middle <end>
"""

from collections.abc import Mapping
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data.vocabularies import MarkedVocabulary
from gpt4x.errors import UserError


def prompt(vocabulary: Any, prefix: str, suffix: str, suffix_first: bool = False) -> list[int]:
  """The ids after which a model says what stands between two texts."""
  if not isinstance(vocabulary, MarkedVocabulary):
    raise UserError(f"the model's vocabulary, a {type(vocabulary).__name__}, has no marks of what is before and behind:"
                    " fill in with a model of a task such as local_text_infill")
  before, behind = (list(vocabulary.text.encode(text)) for text in (prefix, suffix))
  first, second, last = (vocabulary.mark(name) for name in ("<prefix>", "<suffix>", "<middle>"))
  return [first, second, *behind, last, *before] if suffix_first else [first, *before, second, *behind, last]


def rearranged(text: str, vocabulary: MarkedVocabulary, rng: np.random.Generator, rate: float, suffix_first: float,
               characters: int | None) -> list[int]:
  """The ids of a document, no character of which is lost; see `infill`."""
  size, found = characters or max(len(text), 1), list[int]()
  for start in range(0, len(text), size):
    part = text[start:start + size]
    if rng.random() < rate:
      first, second = sorted(rng.integers(0, len(part) + 1, 2).tolist())
      found += prompt(vocabulary, part[:first], part[second:], rng.random() < suffix_first)
      found += [*vocabulary.text.encode(part[first:second]), vocabulary.mark("<end>")]
    else:
      found += vocabulary.text.encode(part)
  return found


@gin.configurable  # So that what gin says of it is part of the key of its tokens.
def infill(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], rate: float = 0.5,
           suffix_first: float = 0.5, characters: int | None = None) -> tf.data.Dataset:
  """A seqio preprocessor: {"text"} to {"targets"}, by seqio's seeds.

  Args:
    dataset: documents.
    output_features: of which the targets have a MarkedVocabulary.
    rate: the share of parts whose middle comes last.
    suffix_first: the share of these that are SPM.
    characters: of a part, the last of a document perhaps fewer; what belongs together has to fit into the memory.
      None: a document is one part.
  """
  vocabulary = output_features["targets"].vocabulary
  if not isinstance(vocabulary, MarkedVocabulary):
    raise UserError(f"the vocabulary {type(vocabulary).__name__} has no marks of what is before and behind: give the"
                    " task a MarkedVocabulary")
  if not (0 <= rate <= 1 and 0 <= suffix_first <= 1 and (characters is None or characters >= 8)):
    raise UserError(f"infill.rate = {rate}, infill.suffix_first = {suffix_first} and infill.characters = {characters}"
                    " must be numbers from 0 to 1, and at least 8 or None: correct them")

  def made(text: bytes, seed: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed.astype(np.uint32))
    return np.array(rearranged(text.decode(), vocabulary, rng, rate, suffix_first, characters), np.int32)

  @seqio.map_over_dataset(num_seeds=1)
  def draw(document: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"targets": tf.ensure_shape(tf.numpy_function(made, [document["text"], seed], tf.int32), [None])}

  return draw(dataset)
