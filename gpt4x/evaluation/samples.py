"""Media that a model makes for the conditions of a split: drawn, measured, and shown."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import gin
import jax
from jax.experimental import multihost_utils
import numpy as np

from gpt4x.data.dataset import Dataset
from gpt4x.errors import UserError
from gpt4x.evaluation.contact_sheet import Cell
from gpt4x.evaluation.gallery import Gallery
from gpt4x.evaluation.reconstructions import Reconstructions
from gpt4x.evaluation.sample_measures import of_samples
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.media.grammar import Grammar
from gpt4x.media.layout import Span
from gpt4x.media.medium import Audio, Image, Medium
from gpt4x.models.codec_model import CodecModel

_MOST_READ = 10_000  # Examples of a split, to choose conditions from and to compare samples with.
_MOST_VALUES = 2**26  # Of all training pictures that samples are compared with: half a gigabyte.


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """What a medium is to be made from, and the one that the data has there.

  Attributes:
    prompt: ids, without BOS.
    span: the ids of the medium.
    medium: what it is.
  """

  prompt: tuple[int, ...]
  span: np.ndarray
  medium: str


@gin.configurable("sample_media", allowlist=["temperature", "top_k", "top_p", "guidance", "seed", "batch_size"])
class MediaSampler:
  """Draws media for examples of a split, with the grammar of the model's vocabulary.

  An example's condition is all that comes before the first medium in its targets.
  """

  def __init__(self, experiment: Experiment, split: str, *, temperature: float = 1.0, top_k: int | None = None,
               top_p: float | None = None, guidance: float = 1.0, seed: int = 0, batch_size: int = 16):
    """Prepares to draw.

    Args:
      experiment: whose model and data they are.
      split: of the conditions.
      temperature, top_k, top_p: see `Sampling`.
      guidance: how often the difference that a condition makes to the logits counts; 1: once.
      seed: of the draws.
      batch_size: how many are decoded together.
    """
    self._data, self._split = experiment.data, split
    vocabulary: Any = experiment.data.vocabulary
    self._vocabulary = vocabulary
    if not self._data.modalities:
      raise UserError(f"samples of media were asked for, and the vocabulary of {self._data.config.mixture_or_task_name}"
                      " has text alone: ask for none")
    self._guidance, self._seed, self._batch_size = guidance, seed, batch_size
    self._bidirectional = experiment.dataset.feature_converter == "prefix_lm"
    sampling, model = Sampling(temperature, top_k, top_p), experiment.language_model
    memory = max(experiment.memory_length, experiment.eval_memory_length)
    window = memory if model.config.same_length and memory else memory + experiment.dataset.segment_length
    self._engine = functools.cache(lambda medium: Engine(
        model, window, vocabulary.eos_id, vocabulary.vocab_size, sampling, guidance=guidance,
        grammar=Grammar(vocabulary.layout, frozenset([medium]), medium)))

  def __call__(self, params: Any, count: int,
               between_batches: Callable[[], None] = lambda: None) -> tuple[dict[str, float], Gallery]:
    """Metrics of so many samples, and what there is to be seen and heard. The first of several processes works alone.

    `samples/complete` is the share of the samples that came to their end; see `sample_measures` for others.
    """
    if jax.process_count() > 1:
      params = multihost_utils.process_allgather(params, tiled=True)
      if jax.process_index():
        return {}, Gallery([])
      between_batches = lambda: None  # The others do not wait for it here.
    known = self._known
    chosen = [known[i * len(known) // count if count <= len(known) else i % len(known)] for i in range(count)]
    captions = [self._vocabulary.decode(list(example.prompt)) for example in chosen]
    drawn = self.draw(params, chosen, between_batches)
    found = {"samples/complete": float(np.mean([complete for _, complete in drawn]))}
    made = [(caption, medium) for caption, (medium, _) in zip(captions, drawn) if medium is not None]
    kinds = {type(medium) for _, medium in made}
    if kinds in ({Image}, {Audio}):  # Of several none is judged, nor are videos.
      found |= of_samples(made, self._real, self._training_pictures if kinds == {Image} else None, count)
    return found, Gallery([Cell(caption, [medium]) for caption, medium in made])

  def draw(self, params: Any, examples: Sequence[Example],
           between_batches: Callable[[], None] = lambda: None) -> list[tuple[Medium | None, bool]]:
    """A medium for the prompt of each example, None where nothing whole came; and whether it came to its end.

    Each has as much room as the longest of the examples' own.
    """
    numbered, found = list(enumerate(examples)), dict[int, Span | None]()
    for medium in dict.fromkeys(example.medium for example in examples):
      group = [(number, example) for number, example in numbered if example.medium == medium]
      room = 1 + max(len(example.span) for _, example in group)
      for start in range(0, len(group), self._batch_size):
        between_batches()
        batch = group[start:start + self._batch_size]
        numbers, prompts = zip(*((number, example.prompt) for number, example in [
            *batch, *batch[-1:] * (min(self._batch_size, len(group)) - len(batch))]))  # One size: compiled once.
        pieces = self._engine(medium)(
            params, prompts, room, self._seed, self._bidirectional, numbers,
            null_prompts=None if self._guidance == 1 else [()] * len(prompts))
        rows = np.concatenate([piece.tokens for piece in pieces], 1)
        found |= {number: self._span(row) for (number, _), row in zip(batch, rows)}
    spans = [found[number] for number in range(len(examples))]
    return [(medium, span is not None and span.complete) for span, medium in zip(spans, self._media(spans))]

  def _span(self, ids: np.ndarray) -> Span | None:
    """The first medium in a stream, if anything of it came."""
    spans = (part for part in self._vocabulary.layout.parse(ids) if isinstance(part, Span))
    return next((span for span in spans if span.codes.size), None)

  def _media(self, spans: Sequence[Span | None]) -> list[Medium | None]:
    """The media of spans; codecs that are learned decode many at a time."""
    found: list[Medium | None] = [None] * len(spans)
    for name, codec in self._vocabulary.codecs.items():
      mine = {i: span for i, span in enumerate(spans) if span is not None and span.medium == name}
      decode_all = getattr(codec, "decode_all", None) if not any(span.sound for span in mine.values()) else None
      made = (decode_all([span.codes for span in mine.values()]) if decode_all else
              map(self._vocabulary.decode_medium, mine.values()))
      for i, medium in zip(mine, made):
        found[i] = medium
    return found

  @functools.cached_property
  def _known(self) -> list[Example]:
    found = list(itertools.islice(examples_of(self._data, self._split), _MOST_READ))
    if not found:
      raise UserError(f"samples of media were asked for, and no example of {self._data.config.mixture_or_task_name},"
                      f" split {self._split}, has one in its targets: ask for none, or choose another task")
    return found

  # What they are measured by.

  @functools.cached_property
  def _real(self) -> list[tuple[str, Medium]]:
    """(text, medium) of the split's own media, as the codec has them."""
    found = self._media([self._span(example.span) for example in self._known])
    return [(self._vocabulary.decode(list(example.prompt)), medium)
            for example, medium in zip(self._known, found) if medium is not None]

  @functools.cached_property
  def _training_pictures(self) -> np.ndarray | None:
    """uint8 [n, H, W, C], those of the size of the first; None if there are none."""
    if "train" not in self._data.provider.splits:
      return None
    examples = (one for one in itertools.islice(examples_of(self._data, "train"), _MOST_READ) if one.medium == "image")
    found: list[np.ndarray] = []
    while group := list(itertools.islice(examples, 256)):
      pictures: Any = self._media([self._span(example.span) for example in group])
      found += [one.pixels for one in pictures if one.pixels.shape == (found or [pictures[0].pixels])[0].shape]
      if len(found) * found[0].size > _MOST_VALUES:
        break
    return np.stack(found) if found else None


def shower(experiment: Experiment, split: str) -> "MediaSampler | Reconstructions":
  """What makes media of a split to be looked at: of a model their samples, of a codec their reconstructions."""
  return (Reconstructions if isinstance(experiment.model, CodecModel) else MediaSampler)(experiment, split)


def examples_of(data: Dataset, split: str) -> Iterator[Example]:
  """The examples of a split that have a medium in their targets, up to the first."""
  vocabulary: Any = data.vocabulary
  layout = vocabulary.layout
  for ids, num_inputs in _sequences(data, split):
    begins = np.flatnonzero(np.isin(ids[num_inputs:], list(layout.begins)))
    if not begins.size:
      continue
    place = num_inputs + int(begins[0])
    span = next(part for part in layout.parse(ids[place:]) if isinstance(part, Span))
    # Inputs are seen in both directions, so what follows them cannot be a part of the prompt.
    if span.complete and (place == num_inputs or data.config.feature_converter != "prefix_lm"):
      yield Example(tuple(ids[:place].tolist()), layout.flatten(span), span.medium)


def _sequences(data: Dataset, split: str) -> Iterator[tuple[np.ndarray, int]]:
  """The ids of each example, and how many of them are inputs."""
  if data.config.carries_memory:
    yield from ((document, 0) for document in data.documents(split))
    return
  for batch in data.evaluation(split):
    for row, segment_ids in enumerate(batch["decoder_segment_ids"]):
      for number in range(1, segment_ids.max() + 1):
        inside = segment_ids == number
        seen = batch["decoder_causal_attention"][row][inside].sum() if "decoder_causal_attention" in batch else 1
        yield batch["decoder_target_tokens"][row][inside], int(seen) - 1

