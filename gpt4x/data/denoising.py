"""Denoising: which tokens of a text are hidden, and the inputs and targets that come of it.

All draws are of a NumPy generator, so that an example follows from its seed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

Ids = np.ndarray
Spans = Sequence[tuple[int, int]]  # (start, stop) of tokens, rising, without overlaps.


class Denoiser(NamedTuple):
  """How much is hidden of a text, and how.

  Attributes:
    mode: the mark that stands before the inputs and tells the model which denoiser it is: 'R', 'S' or 'X'; or None.
    mean: tokens of a span on average; None: one span, the end of the text, as of a prefix LM.
    density: the share of tokens that are hidden; without `mean` the share on average, from 0 to twice as much.
  """

  mode: str | None
  mean: float | None
  density: float


T5 = (Denoiser(None, 3, 0.15),)  # arXiv:1910.10683, section 3.1.4
# arXiv:2205.05131, table 1
UL2 = (Denoiser("R", 3, 0.15), Denoiser("R", 8, 0.15), Denoiser("S", None, 0.25), Denoiser("X", 3, 0.5),
       Denoiser("X", 8, 0.5), Denoiser("X", 64, 0.15), Denoiser("X", 64, 0.5))
PREFIX = (Denoiser(None, None, 0.5),)


class Marks(Protocol):
  """What is asked of a vocabulary with marks."""

  @property
  def spans(self) -> int: ...
  @property
  def vocab_size(self) -> int: ...
  def mark(self, name: str) -> int: ...
  def span_id(self, number: int) -> int: ...


class Example(NamedTuple):
  """What is given, and what is to be said."""

  inputs: Ids
  targets: Ids


def random_spans(length: int, mean: float, density: float, most: int, rng: np.random.Generator
                 ) -> list[tuple[int, int]]:
  """Spans of tokens to hide: density * length tokens in spans of `mean` tokens on average, `most` spans at most.

  A text begins with what is shown, and something of both there is always; see arXiv:1910.10683, appendix B.
  """
  hidden = min(max(round(length * density), 1), length - 1)
  count = min(max(round(hidden / mean), 1), most, hidden, length - hidden)
  stops = np.cumsum(np.stack([_parts(length - hidden, count, rng), _parts(hidden, count, rng)], 1).ravel())
  return list(zip(stops[::2].tolist(), stops[1::2].tolist()))


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
  """`total` as a sum of so many numbers from 1 on, all such sums being equally likely."""
  cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


def whole_spans(candidates: Spans, length: int, density: float, most: int, rng: np.random.Generator
                ) -> list[tuple[int, int]]:
  """Of candidates, such as names of entities, whole ones until density * length tokens are hidden; perhaps fewer."""
  wanted, found = density * length, list[tuple[int, int]]()
  for index in rng.permutation(len(candidates))[:most].tolist():
    if wanted <= 0:
      break
    start, stop = candidates[index]
    if stop - start < length:  # Something has to be shown.
      found.append((start, stop))
      wanted -= stop - start
  return sorted(found)


def hidden_spans(ids: Ids, spans: Spans, marks: Marks, mode: str | None) -> Example:
  """A mark for each span in the inputs; the targets are each mark with what it stands for."""
  inputs, targets, at = list[Ids](), list[Ids](), 0
  for number, (start, stop) in enumerate(spans):
    mark = np.array([marks.span_id(number)], np.int32)
    inputs += [ids[at:start], mark]
    targets += [mark, ids[start:stop]]
    at = stop
  return Example(_moded([*inputs, ids[at:]], marks, mode), np.concatenate(targets))


def prefix(ids: Ids, density: float, marks: Marks, mode: str | None, rng: np.random.Generator) -> Example:
  """The beginning of a text as inputs, and the rest, a share of `density` on average, as targets."""
  rest = int(rng.integers(1, max(2, min(len(ids), round(2 * density * len(ids))))))
  return Example(_moded([ids[:-rest]], marks, mode), ids[-rest:])


def _moded(parts: Sequence[Ids], marks: Marks, mode: str | None) -> Ids:
  first = [] if mode is None else [marks.mark(f"[{mode}]")]
  return np.concatenate([np.array(first, np.int32), *parts])


def most_tokens(denoiser: Denoiser, lengths: tuple[int, int], spans: int) -> int:
  """The longest text whose inputs and targets, the end of a document included, fit into `lengths`; 0: none does."""
  room, answers = lengths[0] - (denoiser.mode is not None), lengths[1] - 1
  if denoiser.mean is None:
    return min(room + 1, int((answers + 1) / min(1.0, 2 * denoiser.density)))
  # Both grow with the text.
  low, high = 1, room + answers
  while low < high:
    length = (low + high + 1) // 2
    hidden = min(max(round(length * denoiser.density), 1), length - 1)
    count = min(max(round(hidden / denoiser.mean), 1), spans, hidden, length - hidden)
    fits = length - hidden + count <= room and hidden + count <= answers
    low, high = (length, high) if fits else (low, length - 1)
  return low if low > 1 else 0


def pieces(length: int, sizes: Iterator[int], shortest: int) -> Iterator[tuple[int, int]]:
  """Where the pieces of a text stand, each of the next of `sizes` at most; all of the text is in one of them.

  None is shorter than `shortest`, unless the text or a size is.
  """
  start = 0
  while start < length:
    size, rest = next(sizes), length - start
    if size < rest < size + shortest:
      size = max(min(size, rest - shortest), 1)
    yield start, min(start + size, length)
    start += size


def masked(ids: Ids, hidden: np.ndarray, mask: int, words: Ids, rng: np.random.Generator) -> Ids:
  """The inputs of BERT (arXiv:1810.04805, section 3.1): of the hidden tokens 80% masked, 10% random, 10% as they are.

  Args:
    ids: a text [n].
    hidden: which of them are to be predicted, [n] bool.
    mask: the id of the mask.
    words: what random ones are drawn from.
    rng: of the draws.
  """
  fate = rng.random(len(ids))
  shown = np.where(fate < 0.8, mask, np.where(fate < 0.9, rng.choice(words, len(ids)), ids))
  return np.where(hidden, shown, ids).astype(np.int32)
