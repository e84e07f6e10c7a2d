"""Streams of segments: a row reads documents end to end, and its next segment goes on where the last one stopped.

A model with memory needs exactly this order. A position is two numbers a row: which document, and how far into it.
Every host follows all B rows, which takes only documents' lengths, and copies the tokens of its own rows. So all hosts
have the same position, and a run may continue on any number of hosts.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
import heapq
import itertools
import sys
from typing import Any, Protocol, Self, TYPE_CHECKING

import numpy as np

from gpt4x.data.changes import changes
from gpt4x.data.fingerprint import fingerprint
from gpt4x.errors import UserError

if TYPE_CHECKING:
  from gpt4x.data.token_store import TokenStore

FEATURES = {
    "decoder_target_tokens": np.int32, "decoder_input_tokens": np.int32,
    "decoder_segment_ids": np.int32, "decoder_loss_weights": np.float32}
_PATIENCE = 1.0  # Seconds that the first batch waits for the check of the tokens: enough for a gigabyte.
# A document longer than a row's equal share of the corpus is cut, so that a corpus of one long file gives each row text
# of its own. A document of at most SHORTEST_PIECE tokens is never cut.
SHORTEST_PIECE = 1024
# A mixture interleaves its tasks in a fixed pattern, which could give a row (documents i, i + B, ...) a single task.
# Shuffling within windows of MIXTURE_WINDOW documents breaks the pattern and keeps the rates.
MIXTURE_WINDOW = 1024


class Beside(Protocol):
  """What is known of each token of a store beside it, such as what a teacher says there: more features of a batch."""

  @property
  def fingerprint(self) -> str: ...
  @property
  def features(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
    """The name of each feature, with what it adds to the shape [B, L], and its type."""
  def rows(self, document: int) -> Mapping[str, np.ndarray]:
    """The features of a document, a row for each token."""
  def check(self, patience: float | None = None) -> None:
    """As a TokenStore's."""


class _Pieces:
  """The documents of a store, the longest of them cut: a sequence of (document, start, stop, the features beside)."""

  def __init__(self, store: "TokenStore", batch_size: int, beside: Beside | None = None, whole: bool = False):
    self._store, self._beside = store, beside
    # Piece i is document i, or its first part; the numbers of further parts follow those of all documents.
    self._first_stop: dict[int, int] = {}
    self._further: list[tuple[int, int, int]] = []
    limit = store.longest if whole else max(SHORTEST_PIECE, -(-store.num_tokens // batch_size))
    lengths = store.lengths() if store.longest > limit else np.zeros(0)  # Lengths are read only where they are needed.
    for index in np.flatnonzero(lengths > limit).tolist():  # At most B - 1 documents.
      length = int(lengths[index])
      parts = -(-length // limit)
      stops = [length * (part + 1) // parts for part in range(parts)]
      self._first_stop[index] = stops[0]
      self._further += [(index, start, stop) for start, stop in itertools.pairwise(stops)]

  def __len__(self) -> int:
    return len(self._store) + len(self._further)

  def __getitem__(self, number: int) -> "_Piece":
    if number < len(self._store):
      index, start, stop = number, 0, self._first_stop.get(number)
    else:
      index, start, stop = self._further[number - len(self._store)]
    document = self._store[index]
    return document, start, stop or len(document), self._beside.rows(index) if self._beside else {}

  def lengths(self) -> np.ndarray:
    lengths = np.array(self._store.lengths())
    lengths[list(self._first_stop)] = list(self._first_stop.values())
    return np.concatenate([lengths, np.array([stop - start for _, start, stop in self._further], lengths.dtype)])


_Piece = tuple[np.ndarray, int, int, Mapping[str, np.ndarray]]


class _Rows:
  """B rows that read pieces end to end, [B, L] tokens a batch. A subclass says which piece is a row's next."""

  def __init__(self, stores: Sequence["TokenStore"], batch_size: int, segment_length: int, rows: Sequence[int] | None,
               beside: Sequence[Beside] = (), whole: bool = False):
    self._batch_size, self._segment_length = batch_size, segment_length
    # The rows of this host, and the place of each in its batches.
    self._rows = {row: place for place, row in enumerate(range(batch_size) if rows is None else rows)}
    self._stores, self._beside, self._patience = stores, beside, _PATIENCE
    self._num_ids = min(store.num_ids for store in stores)
    self._start_id = stores[0].start_id  # All have one vocabulary.
    self._pieces = [_Pieces(store, batch_size, one, whole)
                    for store, one in itertools.zip_longest(stores, beside)]
    # The number of each store's first piece among those of all stores.
    self._begins = list(itertools.accumulate(map(len, self._pieces), initial=0))
    self._rewind([0] * batch_size, [0] * batch_size)

  def _rewind(self, documents: Sequence[int], offsets: Sequence[int]) -> None:
    """Puts row i at token `offsets[i]` of its piece `documents[i]`."""
    self._documents, self._offsets = list(documents), list(offsets)
    self._open: list[_Piece | None] = [None] * self._batch_size

  def _piece_number(self, row: int, count: int) -> int | None:
    """The number of the piece that `row` reads after `count` others; None after its last."""
    raise NotImplementedError

  def _current(self, row: int) -> _Piece | None:
    if self._open[row] is None:
      number = self._piece_number(row, self._documents[row])
      if number is not None:
        store = bisect.bisect_right(self._begins, number) - 1
        self._open[row] = self._pieces[store][number - self._begins[store]]
    return self._open[row]

  def _check(self, patience: float | None) -> None:
    """Raises a UserError if a store is known to be damaged, or what is beside one."""
    for store in self._stores:
      store.check(patience)
    for beside in self._beside:
      beside.check(patience)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    self._check(self._patience)
    self._patience = 0.0
    shape = len(self._rows), self._segment_length
    batch = {name: np.zeros(shape, dtype) for name, dtype in FEATURES.items()}
    for name, (further, dtype) in (self._beside[0].features if self._beside else {}).items():
      batch[name] = np.zeros((*shape, *further), dtype)
    for row in range(self._batch_size):
      column = 0
      while column < self._segment_length and (piece := self._current(row)) is not None:
        document, start, stop, more = piece
        start += self._offsets[row]
        length = min(stop - start, self._segment_length - column)
        if row in self._rows:
          views = {name: value[self._rows[row], column:column + length] for name, value in batch.items()}
          first = int(start == 0)  # A document's first token has none before it: its input is that of all documents.
          views["decoder_input_tokens"][:first] = self._start_id
          views["decoder_target_tokens"][:] = document[start:start + length]
          views["decoder_input_tokens"][first:] = document[start - 1 + first:start + length - 1]
          views["decoder_segment_ids"][:] = 1 + self._documents[row] % 2**30
          views["decoder_loss_weights"][:] = 1
          for name, values in more.items():
            views[name][:] = values[start:start + length]
        column += length
        self._offsets[row] += length
        if start + length == stop:
          self._documents[row] += 1
          self._offsets[row], self._open[row] = 0, None
    # Negative ids, too: as unsigned ones they are large.
    if batch["decoder_target_tokens"].size and batch["decoder_target_tokens"].view(np.uint32).max() >= self._num_ids:
      self._check(None)  # Which says more.
      raise UserError(f"the tokens of {' or '.join(store.name for store in self._stores)} go beyond the vocabulary of"
                      f" {self._num_ids}: remove them (gpt4x cache), and the next run makes them again")
    return batch


class SegmentStream(_Rows):
  """The endless stream for training: row i of B reads the shuffled documents i, i + B, i + 2B, ...

  Each epoch visits every document once, in an order of its own. The order depends on the stores' names and documents,
  `rates`, `seed` and B, and on nothing else.

  Args:
    stores: one for each task.
    batch_size: B, the rows of all hosts together.
    segment_length: L.
    rows: the rows of this host; None for all B.
    seed: decides the shuffle.
    rates: the share of each store, counted in documents; None for equal shares.
    beside: what is known of the tokens of each store.
  """

  def __init__(self, stores: Sequence["TokenStore"], *, batch_size: int, segment_length: int,
               rows: Sequence[int] | None = None, seed: int = 0, rates: Sequence[float] | None = None,
               beside: Sequence[Beside] = ()):
    super().__init__(stores, batch_size, segment_length, rows, beside)
    rates = [float(rate) for rate in rates or [1] * len(stores)]
    self._identity = {
        "feature_converter": "stream", "batch_size": batch_size, "segment_length": segment_length, "seed": seed,
        "fingerprint": fingerprint([SHORTEST_PIECE, MIXTURE_WINDOW, [store.fingerprint for store in stores], rates])}
    if beside:
      self._identity["beside"] = [one.fingerprint for one in beside]
    import grain
    import grain.experimental

    self._tasks = {store.name: {"content": store.fingerprint, "documents": len(store), "tokens": store.num_tokens}
                   for store in stores}
    names = [store.name for store in stores]
    # grain adds the epoch to the seed. Without a hash, the first epoch of seed 1 would be the second of seed 0.
    seeds = [int(fingerprint([seed, name])[:7], 16) for name in [*names, names]]
    shuffled = [grain.MapDataset.range(*bounds).shuffle(seed=seed).repeat()
                for bounds, seed in zip(itertools.pairwise(self._begins), seeds)]
    self._order: grain.MapDataset[int] = shuffled[0]
    if len(shuffled) > 1:
      self._order = grain.experimental.WindowShuffleMapDataset(
          grain.MapDataset.mix(shuffled, rates), window_size=MIXTURE_WINDOW, seed=seeds[-1])

  def _piece_number(self, row: int, count: int) -> int:
    return self._order[count * self._batch_size + row]

  def get_state(self) -> dict[str, Any]:
    """The position of each of the B rows, as JSON: how many documents it has read, and how much of the next."""
    return {**self._identity, "tasks": self._tasks, "documents": list(self._documents), "offsets": list(self._offsets)}

  def set_state(self, state: dict[str, Any]) -> None:
    check_state({"beside": None} | state, self._identity, lambda: changes(state.get("tasks"), self._tasks))
    self._rewind(state["documents"], state["offsets"])


class EvaluationSegments(_Rows):
  """Each document once, in rows of about equal length; the shorter rows end in padding.

  Who takes only the first `max_batches`, fewer than there are, gets rows that start at different places: their first
  segments would be the beginnings of a few documents, which are unlike the rest. `whole` documents are never cut.
  """

  def __init__(self, stores: Sequence["TokenStore"], *, batch_size: int, segment_length: int,
               rows: Sequence[int] | None = None, max_batches: int | None = None, beside: Sequence[Beside] = (),
               whole: bool = False):
    super().__init__(stores, batch_size, segment_length, rows, beside, whole)
    lengths = np.concatenate([pieces.lengths() for pieces in self._pieces])
    # The longest document comes first; each goes to the row that is shortest so far.
    loads = [(0, row) for row in range(batch_size)]
    self._dealt: list[list[int]] = [[] for _ in range(batch_size)]
    for number in np.argsort(-lengths, kind="stable").tolist():
      load, row = loads[0]
      heapq.heapreplace(loads, (load + int(lengths[number]), row))
      self._dealt[row].append(number)
    for numbers in self._dealt:
      numbers.sort()
    self._remaining = -(-max(loads)[0] // segment_length)  # Batches still to come.
    if max_batches is not None and max_batches < self._remaining:
      self._spread(lengths, max_batches * segment_length)

  def _spread(self, lengths: np.ndarray, length: int) -> None:
    """Puts row 0 near its start and the last row near its end, with `length` tokens to come, the others between."""
    documents, offsets = [0] * self._batch_size, [0] * self._batch_size
    for row, numbers in enumerate(self._dealt):
      begins = np.cumsum([0, *lengths[numbers]])
      start = max(0, int(begins[-1]) - length) * (2 * row + 1) // (2 * self._batch_size)
      documents[row] = max(0, int(np.searchsorted(begins, start, side="right")) - 1)
      offsets[row] = start - int(begins[documents[row]])
    self._rewind(documents, offsets)

  def _piece_number(self, row: int, count: int) -> int | None:
    return self._dealt[row][count] if count < len(self._dealt[row]) else None

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._remaining:
      self._check(None)  # A metric is of tokens that are known to be whole.
      raise StopIteration
    self._remaining -= 1
    return super().__next__()


def check_state(state: dict[str, Any], identity: dict[str, Any], difference: Callable[[], str]) -> None:
  """Raises a UserError if a saved position belongs to data other than what `identity` describes.

  `difference` says what is known of how contents differ.
  """
  named = {"fingerprint": "fingerprint of tokens and rates", "content": "content of the tasks' tokens",
           "beside": "what a teacher says of its tokens,"}
  for name, value in identity.items():
    if name in state and state[name] != value:
      what = f" ({found})" if name in named and (found := difference()) else ""
      raise UserError(f"the checkpoint's place in the data has {named.get(name, name)} {state[name]!r}, but this run"
                      f" has {value!r}{what}: change that back, or start in a new model directory")
  if not identity.keys() <= state.keys():
    print("gpt4x: warning: the checkpoint is of an earlier version, which saved no content to compare its data by:"
          " make sure that texts and vocabulary are the same", file=sys.stderr)
