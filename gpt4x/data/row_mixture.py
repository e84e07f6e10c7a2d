"""Data sets of several objectives in one run: each fills rows of its own in every batch.

Rows of a stream go on where they stopped; those of examples begin anew, for no document of theirs has the number of one
that the memory may still hold. `decoder_part/NAME` [B, L] is 1 in the rows of a part, so that its metrics are known.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Any, Self, TYPE_CHECKING

import gin
import numpy as np

from gpt4x.data.dataset import Batch, Dataset, DatasetConfig, DatasetIterator, TokenFeatures
from gpt4x.data.stream import check_state
from gpt4x.errors import refuse, UserError

if TYPE_CHECKING:
  import seqio

PART = "decoder_part/"  # And the name of a part.
_NUMBERS = 1 << 30  # Of documents, as a stream has them.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RowMixture:
  """Which data sets share the batches of a run.

  Attributes:
    parts: a DatasetConfig by the name of each part, all of one length L and one vocabulary; their batch sizes add up to
      B. The first says how prompts are read.
    weights: what a target of a part counts for in the loss, where that is not 1.
  """

  parts: Mapping[str, DatasetConfig]
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    refuse(self, len(self.parts) < 1 or not all(re.fullmatch(r"[a-z]\w*", name) for name in self.parts), "parts",
           "must name each part in small letters, as in {'text': @text/DatasetConfig()}")
    lengths = {name: one.segment_length for name, one in self.parts.items()}
    if len(set(lengths.values())) > 1:
      raise UserError(f"RowMixture.parts have rows of {lengths} positions: give all of them one length in"
                      " task_feature_lengths")
    for name, weight in self.weights.items():
      if name not in self.parts or not weight >= 0:
        raise UserError(f"RowMixture.weights has {name!r}: {weight!r}, and the parts are {', '.join(self.parts)}: give"
                        " a number of at least 0 to some of these")

  @property
  def batch_size(self) -> int:
    """B."""
    return sum(one.batch_size for one in self.parts.values())

  @property
  def segment_length(self) -> int:
    """L."""
    return self._first.segment_length

  @property
  def carries_memory(self) -> bool:
    """Whether a part does."""
    return any(one.carries_memory for one in self.parts.values())

  @property
  def feature_converter(self) -> str:
    return self._first.feature_converter

  @property
  def mixture_or_task_name(self) -> str:
    return " + ".join(one.mixture_or_task_name for one in self.parts.values())

  @property
  def task_feature_lengths(self) -> Mapping[str, int]:
    return self._first.task_feature_lengths

  @property
  def repeat(self) -> int:
    return 1

  @property
  def _first(self) -> DatasetConfig:
    return next(iter(self.parts.values()))

  def open(self, vocabulary: "seqio.Vocabulary | None" = None,
           token_features: TokenFeatures | None = None) -> "MixedRows":
    """As DatasetConfig does."""
    return MixedRows(self, vocabulary, token_features)


class MixedRows(Dataset):
  """The data sets of a RowMixture."""

  def __init__(self, config: RowMixture, vocabulary: "seqio.Vocabulary | None" = None,
               token_features: TokenFeatures | None = None):
    if token_features is not None:
      raise token_features.error("has rows for the tokens of one stream, not for several parts: name one task")
    from gpt4x.data import vocabularies

    self._mixture = config
    self.parts = {name: one.open(vocabulary) for name, one in config.parts.items()}
    first, *others = self.parts.values()
    for other in others:
      if not vocabularies.alike(first.vocabulary, other.vocabulary):
        raise UserError(f"{first.config.mixture_or_task_name} and {other.config.mixture_or_task_name} differ in their"
                        " vocabulary: give all parts one, such as tasks whose names end alike")
    if any(one.sequences == "pairs" for one in self.parts.values()):
      raise UserError(f"{config.mixture_or_task_name} has pairs of answers, which go with nothing else: name one task")
    self.config, self.vocabulary, self.modalities = first.config, first.vocabulary, first.modalities

  def train(self, split: str = "train", rows: Sequence[int] | None = None) -> DatasetIterator:
    return _Mixed(self._mixture, {name: (one.train(split, mine), mine) for (name, one), mine in zip(
        self.parts.items(), self._rows(rows))})

  def evaluation(self, split: str, rows: Sequence[int] | None = None,
                 max_batches: int | None = None) -> Iterator[Batch]:
    """Each part's own evaluation, side by side; a part that has ended is padding."""
    shares = self._rows(rows)
    found = itertools.zip_longest(*(one.evaluation(split, mine, max_batches)  # As many on every host.
                                    for one, mine in zip(self.parts.values(), shares)))
    names: dict[str, Any] = {}
    for number, batches in enumerate(found):
      names |= {name: value for batch in batches if batch for name, value in batch.items()}
      whole = [batch if batch is not None else {} for batch in batches]
      yield _joined(self._mixture, dict(zip(self.parts, zip(whole, shares))), number, names)

  def _rows(self, rows: Sequence[int] | None) -> list[list[int]]:
    """Of this host's rows those of each part, by their places in it."""
    wanted, found, start = range(self._mixture.batch_size) if rows is None else rows, list[list[int]](), 0
    for one in self._mixture.parts.values():
      found.append([row - start for row in wanted if start <= row < start + one.batch_size])
      start += one.batch_size
    return found

  def check_split(self, split: str) -> None:
    for one in self.parts.values():
      one.check_split(split)

  def stores(self, split: str) -> list[Any]:
    return [store for one in self.parts.values() if one.config.carries_memory for store in one.stores(split)]

  @property
  def chat_template(self) -> Any:
    return next((template for one in self.parts.values() if (template := one.chat_template)), None)

  @property
  def sequences(self) -> str | None:
    return next((kind for one in self.parts.values() if (kind := one.sequences)), None)

  @property
  def has_metrics(self) -> bool:
    return False

  @property
  def composition(self) -> list[str]:
    return [line for one in self.parts.values() for line in one.composition]

  @property
  def provider(self) -> Any:
    raise UserError(f"{self._mixture.mixture_or_task_name} are several tasks: name one")


class _Mixed:
  """Endless batches of parts side by side. The position is that of each part, and how many batches there were."""

  def __init__(self, mixture: RowMixture, parts: Mapping[str, tuple[DatasetIterator, Sequence[int]]]):
    self._mixture, self._parts, self._taken = mixture, parts, 0
    self._identity = {"feature_converter": "rows", "weights": dict(mixture.weights),
                      "parts": {name: one.batch_size for name, one in mixture.parts.items()}}

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Batch:
    found = {name: (next(batches), rows) for name, (batches, rows) in self._parts.items()}
    batch = _joined(self._mixture, found, self._taken)
    self._taken += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    return {**self._identity, "taken": self._taken,
            "states": {name: batches.get_state() for name, (batches, _) in self._parts.items()}}

  def set_state(self, state: dict[str, Any]) -> None:
    check_state(state, self._identity, lambda: "")
    for name, (batches, _) in self._parts.items():
      batches.set_state(state["states"][name])
    self._taken = state["taken"]


def _joined(mixture: RowMixture, parts: Mapping[str, tuple[Batch, Sequence[int]]], number: int,
            names: Mapping[str, np.ndarray] | None = None) -> Batch:
  """The batch of number `number`, of each part's own batch (empty: it has ended) and rows.

  `names` has a value of each feature that any batch may have; None: these do.
  """
  names = names or {name: value for batch, _ in parts.values() for name, value in batch.items()}
  length, joined = mixture.segment_length, dict[str, list[np.ndarray]]()
  for part, (batch, rows) in parts.items():
    batch = dict(batch)
    if batch and not mixture.parts[part].carries_memory:
      first = (number * length) % _NUMBERS  # None of the memory's: a row has at most L documents.
      ids = batch["decoder_segment_ids"]
      batch["decoder_segment_ids"] = np.where(ids > 0, ids + first, 0).astype(ids.dtype)
    if batch and part in mixture.weights:
      batch["decoder_loss_weights"] = batch["decoder_loss_weights"] * np.float32(mixture.weights[part])
    for name, like in names.items():
      empty = np.zeros((len(rows), *like.shape[1:]), like.dtype)
      joined.setdefault(name, []).append(batch.get(name, empty))
    for other in mixture.parts:
      joined.setdefault(f"{PART}{other}", []).append(np.full((len(rows), length), other == part, np.int32))
  return {name: np.concatenate(values) for name, values in joined.items()}
