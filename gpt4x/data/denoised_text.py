"""Seqio preprocessors that hide parts of documents: inputs with something missing, and targets that say what.

Every example follows from seqio's seeds, so a run that goes on hides the same again, and an epoch other parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import itertools
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data import denoising
from gpt4x.data.denoising import Denoiser, Example, Ids
from gpt4x.data.vocabularies import MarkedVocabulary, token_bytes
from gpt4x.errors import UserError

SHORTEST = 8  # Tokens of a piece of a document, unless the document is shorter.
_LENGTHS = {"inputs": 512, "targets": 512}  # Where nobody says.
_SHIPPED = {"t5": denoising.T5, "ul2": denoising.UL2, "prefix": denoising.PREFIX}
# (ids of a document, spans [k, 2] that are hidden whole if any are, generator) -> the examples made of it
Make = Callable[[Ids, np.ndarray, np.random.Generator], Iterator[Example]]


def mixture_of(denoisers: str | Sequence[Sequence[Any]]) -> tuple[Denoiser, ...]:
  """Denoisers by the name of a mixture, or as gin has them; a UserError for what is none."""
  if isinstance(denoisers, str):
    if denoisers not in _SHIPPED:
      raise UserError(f"hide_spans.denoisers = {denoisers!r} is unknown: use one of {', '.join(_SHIPPED)}, or"
                      " (mode, mean, density) of each")
    return _SHIPPED[denoisers]
  try:
    found = tuple(Denoiser(*one) for one in denoisers)
    good = all(mode in (None, "R", "S", "X") and 0 < density < 1 and (mean is None or mean >= 1)
               for mode, mean, density in found)
  except TypeError:
    good = False
  if not good or not found:
    raise UserError(f"hide_spans.denoisers = {denoisers!r} must have (mode, mean, density) of each: a mode 'R', 'S',"
                    " 'X' or None, a mean length of at least 1 or None, and a density between 0 and 1")
  return found


@gin.configurable  # So that what gin says of it is part of the key of its examples.
def hide_spans(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
               sequence_length: Mapping[str, int] | None, denoisers: str | Sequence[Sequence[Any]] = "t5"
               ) -> tf.data.Dataset:
  """A seqio preprocessor: {"targets"} to {"inputs", "targets"}, marks in the place of spans, and these behind marks.

  A document is cut into pieces that fit, none of it is lost, and each piece has a denoiser of its own. Where documents
  have "names" [k, 2], places of their tokens, such are hidden whole, as long as there are any.

  Args:
    dataset: documents of ids.
    output_features: of which the targets have a MarkedVocabulary.
    sequence_length: of inputs and targets.
    denoisers: 't5', 'ul2' or 'prefix', or (mode, mean, density) of each, as `denoising.Denoiser` has them; an example
      has one of them, all equally often.
  """
  mixture = mixture_of(denoisers)
  vocabulary, lengths = _marked(output_features), {**_LENGTHS, **(sequence_length or {})}
  sizes = {one: denoising.most_tokens(one, (lengths["inputs"], lengths["targets"]), vocabulary.spans)
           for one in mixture}
  if short := [one for one, size in sizes.items() if size < 2]:
    raise UserError(f"TASK_FEATURE_LENGTHS = {lengths} has no room for what {tuple(short[0])} hides: raise both")

  def make(ids: Ids, names: np.ndarray, rng: np.random.Generator) -> Iterator[Example]:
    drawn = list[Denoiser]()

    def next_size() -> Iterator[int]:
      while True:
        drawn.append(mixture[rng.integers(len(mixture))])
        yield sizes[drawn[-1]]

    for start, stop in denoising.pieces(len(ids), next_size(), SHORTEST):
      if stop - start > 1:  # Something is shown, and something hidden.
        yield _example(ids[start:stop], drawn[-1], _inside(names, start, stop), vocabulary, lengths, rng)

  return _mapped(dataset, make)


def _example(ids: Ids, denoiser: Denoiser, names: denoising.Spans, vocabulary: Any, lengths: Mapping[str, int],
             rng: np.random.Generator) -> Example:
  mode, mean, density = denoiser
  if mean is None:
    return denoising.prefix(ids, density, vocabulary, mode, rng)
  # With names, spans of random length may be more than there is room for: those that are too many stay as they are.
  spans = denoising.whole_spans(names, len(ids), density, vocabulary.spans, rng) if names else []
  if not spans:
    spans = denoising.random_spans(len(ids), mean, density, vocabulary.spans, rng)
  while True:
    found = denoising.hidden_spans(ids, spans, vocabulary, mode)
    if len(found.targets) < lengths["targets"] and len(found.inputs) <= lengths["inputs"] or len(spans) == 1:
      return found
    spans = spans[:-1]


@gin.configurable
def mask_tokens(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
                sequence_length: Mapping[str, int] | None, share: float = 0.15) -> tf.data.Dataset:
  """A seqio preprocessor: {"targets"} to {"inputs", "targets", "weights"}, alike in length: BERT's.

  What is masked has weight 1, and is predicted where it stands. Where documents have "names" [k, 2], places of their
  tokens, such are masked whole, and tokens at random for what is missing at the share.
  """
  if not 0 < share < 1:
    raise UserError(f"mask_tokens.share = {share} must be between 0 and 1: correct it")
  vocabulary = _marked(output_features)
  length = {**_LENGTHS, **(sequence_length or {})}["targets"]
  is_text, mask = token_bytes(vocabulary) > 0, vocabulary.mark("<mask>")
  words = np.flatnonzero(is_text).astype(np.int32)

  def make(ids: Ids, names: np.ndarray, rng: np.random.Generator) -> Iterator[Any]:
    for start, stop in denoising.pieces(len(ids), itertools.repeat(length), SHORTEST):
      piece, hidden = ids[start:stop], np.zeros(stop - start, bool)
      maskable = np.flatnonzero(is_text[piece])  # No end, and no mark.
      wanted = max(round(share * len(maskable)), 1)
      for first, last in denoising.whole_spans(_inside(names, start, stop), len(piece), share, len(names), rng):
        hidden[first:last] = True
      rest = maskable[~hidden[maskable]]
      hidden[rng.permutation(rest)[:max(wanted - hidden.sum(), 0)]] = True
      yield denoising.masked(piece, hidden, mask, words, rng), piece, hidden.astype(np.int32)

  return _mapped(dataset, make, ("inputs", "targets", "weights"))


def _inside(names: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
  """The spans that are whole in a piece, from its start."""
  return [(int(first) - start, int(last) - start) for first, last in names if first >= start and last <= stop]


def _marked(output_features: Mapping[str, seqio.Feature]) -> MarkedVocabulary:
  vocabulary = output_features["targets"].vocabulary
  vocabulary = getattr(vocabulary, "text", vocabulary) if not isinstance(vocabulary, MarkedVocabulary) else vocabulary
  if not isinstance(vocabulary, MarkedVocabulary):
    raise UserError(f"the vocabulary {type(vocabulary).__name__} has no marks for what is hidden: give the task a"
                    " MarkedVocabulary")
  return vocabulary


def _mapped(dataset: tf.data.Dataset, make: Make, names: tuple[str, ...] = ("inputs", "targets")) -> tf.data.Dataset:
  """The examples that `make` makes of each document, features by `names`, by seqio's seeds."""

  def made(ids: Ids, spans: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
    examples = list(make(ids, spans, np.random.default_rng(seed.astype(np.uint32))))
    columns = list(zip(*examples)) or [()] * len(names)
    empty = [np.zeros(0, np.int32)]
    return [part for column in columns for part in (
        np.concatenate([*empty, *column]).astype(np.int32), np.array([len(one) for one in column], np.int64))]

  @seqio.map_over_dataset(num_seeds=1)
  def draw(document: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.RaggedTensor]:
    spans = document.get("names", tf.zeros([0, 2], tf.int32))
    found = tf.numpy_function(made, [document["targets"], spans, seed], [tf.int32, tf.int64] * len(names))
    values, lengths = ([tf.ensure_shape(one, [None]) for one in found[i::2]] for i in (0, 1))
    return {name: tf.RaggedTensor.from_row_lengths(value, length, validate=False)
            for name, value, length in zip(names, values, lengths)}

  return draw(dataset).flat_map(tf.data.Dataset.from_tensor_slices).map(
      lambda one: {name: tf.ensure_shape(value, [None]) for name, value in one.items()})

