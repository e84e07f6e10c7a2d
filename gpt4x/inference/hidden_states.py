"""What a model makes of whole texts, as vectors: the mean of its hidden states, and the last."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from gpt4x.models.language_model import LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.shapes import Array

SHORTEST, TOKENS = 16, 8192  # The fewest positions that are compiled for, and those of a batch.


class HiddenStates:
  """Vectors of texts, each by itself: whatever is beside it and however it is cut, to rounding.

  The states are those behind the last norm, of every token but the start. A text is seen as a prompt is
  (`inference/engine.py`): by its window of latest positions, or, of a model of prefixes, whole in both directions.
  Texts of similar length share a batch, and lengths and rows are powers of two, so that few shapes are compiled.
  """

  def __init__(self, model: LanguageModel, window: int, start_id: int = 0, bidirectional: bool = False,
               layers: Sequence[str] = ("final",), segment_length: int = 256):
    """Prepares.

    Args:
      model: the language model.
      window: positions that each token sees, W, itself included.
      start_id: the input before a text's first token.
      bidirectional: the tokens of a text see each other in both directions, and no text is cut.
      layers: whose states are wanted: 'final', 'layers.I.output' or others that `TransformerXL` captures.
      segment_length: the longest piece of a text that is run at once; a power of two.
    """
    self._model, self._window, self._start_id, self._bidirectional = model, window, start_id, bidirectional
    self._layers, self._segment_length = tuple(layers), segment_length
    self._step = jax.jit(self._segment, donate_argnums=(5, 6))

  @property
  def size(self) -> int:
    """F: two vectors of each layer."""
    return 2 * len(self._layers) * int(self._model.config.embed_dim or 0)

  def __call__(self, params: Params, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """float32 [n, F] of the ids of n texts, none of them empty: of all layers the mean, then of all the last state."""
    found = np.zeros((len(texts), self.size), np.float32)
    for places, length, segments in self._batches([1 + len(ids) for ids in texts]):
      rows = _power(len(places))
      tokens, real = np.zeros((rows, segments * length), np.int32), np.zeros((rows, segments * length), np.int32)
      for row in range(rows):  # What fills up the batch repeats its last text.
        ids = texts[places[min(row, len(places) - 1)]]
        tokens[row, :1 + len(ids)], real[row, :1 + len(ids)] = [self._start_id, *ids], 1
      found[places] = np.asarray(self._batch(params, tokens, real, segments))[:len(places)]
    return found

  def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[np.ndarray, int, int]]:
    """(texts, positions of a segment, segments) of each batch, the shortest texts first."""
    shapes = np.array([self._shape(length) for length in lengths], int)
    for shape in np.unique(shapes):
      places = np.flatnonzero(shapes == shape)
      places = places[np.argsort(np.array(lengths)[places], kind="stable")]
      rows = max(1, TOKENS // shape)
      for start in range(0, len(places), rows):
        some = places[start:start + rows]
        yield some, int(shape), -(-lengths[some[-1]] // int(shape))

  def _shape(self, length: int) -> int:
    """The positions of a segment of a text of so many; a longer one has several."""
    whole = max(SHORTEST, _power(length))
    return whole if self._bidirectional else min(whole, self._segment_length)

  def _batch(self, params: Params, tokens: np.ndarray, real: np.ndarray, segments: int) -> Float[Array, "B F"]:
    rows, total = tokens.shape
    # What is run at once has no past, unless the model attends to an empty one.
    memory = self._window if segments > 1 or self._model.config.empty_memory == "zeros" else 0
    state = self._model.initial_memory(rows, memory, projected=True)
    counted = real.astype(bool)
    counted[:, 0] = False
    is_last = np.arange(total) == real.sum(1, keepdims=True) - 1
    vectors = jnp.zeros((2, rows, self.size // 2), jnp.float32)
    for start in range(0, total, total // segments):
      piece = slice(start, start + total // segments)
      vectors, state = self._step(params, tokens[:, piece], real[:, piece], counted[:, piece], is_last[:, piece],
                                  vectors, state)
    sums, last = vectors
    return jnp.concatenate([sums / counted.sum(1, keepdims=True), last], -1)

  def _segment(self, params: Params, tokens: Int[Array, "B L"], real: Int[Array, "B L"], counted: Bool[Array, "B L"],
               is_last: Bool[Array, "B L"], vectors: Any, memory: Memory) -> tuple[Any, Memory]:
    """The sums of states and the last states, [2, B, F / 2], with those of one more segment."""
    output = self._model.forward(params, tokens, memory, real, real if self._bidirectional else None, self._window,
                                 capture=self._layers)
    states = jnp.concatenate([output.captures[name] for name in self._layers], -1).astype(jnp.float32)
    which = jnp.stack([counted, is_last]).astype(jnp.float32)
    return vectors + jnp.einsum("nbl,bld->nbd", which, states), output.memory


def _power(count: int) -> int:
  """The next power of two."""
  return 1 << (count - 1).bit_length()
