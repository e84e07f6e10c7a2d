"""The examples of a program, put together by its collator, as the loop and the evaluation read data.

The configuration of such a run can be saved, not its data: who reads the run's directory can generate from the model,
export it or start from it, and only the program goes on with the run.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, Self, TYPE_CHECKING

import gin
import numpy as np

from gpt4x.api import layout
from gpt4x.api.examples import Examples
from gpt4x.data.dataset import Batch, Dataset, DatasetConfig, DatasetIterator, TokenFeatures
from gpt4x.data.modalities import Modalities
from gpt4x.data.stream import check_state
from gpt4x.errors import UserError

if TYPE_CHECKING:
  import seqio

Collator = Callable[[list[Any]], Any]  # Examples to `input_ids`, and perhaps `attention_mask` and `labels`.
NAME = "train_dataset"


def _own(default: Any = None) -> Any:
  """A field that no gin text says."""
  return dataclasses.field(default=default, repr=False, compare=False)


@gin.configurable(denylist=["train_examples", "eval_examples", "collator", "own_vocabulary"])
@dataclasses.dataclass(frozen=True)
class Collated(DatasetConfig):
  """A program's own examples, one a row.

  Attributes:
    mlm: whether all tokens see each other and masked ones are predicted where they stand.
    train_examples, eval_examples: what is read; None in the configuration of a saved run.
    collator: makes arrays of examples.
    own_vocabulary: what the ids stand for.
  """

  mlm: bool = False
  train_examples: Examples | None = _own()
  eval_examples: Examples | None = _own()
  collator: Collator | None = _own()
  own_vocabulary: "seqio.Vocabulary | None" = _own()

  def open(self, vocabulary: "seqio.Vocabulary | None" = None,
           token_features: TokenFeatures | None = None) -> "CollatedDataset":
    return CollatedDataset(self, vocabulary, token_features)


class CollatedDataset(Dataset):
  """What a Collated names."""

  config: Collated

  def __init__(self, config: Collated, vocabulary: "seqio.Vocabulary | None" = None,
               token_features: TokenFeatures | None = None):
    """Takes the vocabulary that the run keeps, if there is a run: it has to encode as the program's does."""
    if config.own_vocabulary is None or config.collator is None:
      raise UserError("the run was trained by a program on data of its own (gpt4x.Trainer), which alone continues or"
                      " evaluates it: run that program, or generate, export and start from the run's directory")
    if token_features is not None:
      raise token_features.error("has rows for the tokens of a stream, not for a program's own examples: name a task")
    from gpt4x.data import vocabularies

    self.config, self.vocabulary = config, vocabulary or config.own_vocabulary
    if vocabulary is not None and not vocabularies.alike(vocabulary, config.own_vocabulary):
      raise UserError(f"the tokenizer has the vocabulary {vocabularies.describe(config.own_vocabulary)}, but the run"
                      f" was trained with {vocabularies.describe(vocabulary)}: take that one, or another output_dir")
    self.start_id = vocabularies.start_id(self.vocabulary)
    self.modalities = Modalities(self.vocabulary, config.mixture_or_task_name)
    self._examples = {"train": config.train_examples, "validation": config.eval_examples}

  @property
  def composition(self) -> list[str]:
    """Nothing: a program's own examples are of no prepared sets."""
    return []

  def train(self, split: str = "train", rows: Sequence[int] | None = None) -> DatasetIterator:
    return self.modalities.training(_Shuffled(self, self.examples(split), rows))

  def evaluation(self, split: str, rows: Sequence[int] | None = None,
                 max_batches: int | None = None) -> Iterator[Batch]:
    del max_batches  # The caller stops where it likes: examples are in no order that the first would not represent.
    return self.modalities.evaluation(self._once(self.examples(split), rows))

  def _once(self, examples: Examples, rows: Sequence[int] | None) -> Iterator[Batch]:
    size = self.config.batch_size
    for number, start in enumerate(range(0, len(examples), size)):
      yield self.batch([examples[i] for i in range(start, min(start + size, len(examples)))], rows, (1, number))

  def batch(self, found: list[Any], rows: Sequence[int] | None, place: tuple[int, int]) -> Batch:
    """This host's rows of up to B collated examples; padding fills up the others.

    What the collator draws follows from the data's seed and `place` alone, if it can be `seeded`.
    """
    config = self.config
    assert config.collator is not None
    collator = seeded(config.collator, config.seed, *place)
    batch = layout.decoder_features(collator(found), config.segment_length, self.start_id, config.mlm)
    count = len(batch["decoder_input_tokens"])
    if count != len(found):
      raise UserError(f"the data collator made {count} rows of {len(found)} examples: let it make one of each")
    filled = {name: np.pad(value, ((0, config.batch_size - count), (0, 0))) for name, value in batch.items()}
    return filled if rows is None else {name: value[list(rows)] for name, value in filled.items()}

  def examples(self, split: str) -> Examples:
    self.check_split(split)
    found = self._examples[split]
    assert found is not None
    return found

  def check_split(self, split: str) -> None:
    if self._examples.get(split) is None:
      known = ", ".join(name for name, one in self._examples.items() if one is not None)
      raise UserError(f"there is no {'eval_dataset' if split == 'validation' else split}, only {known}: give it to the"
                      " Trainer, or eval_strategy='no'")

  @property
  def has_metrics(self) -> bool:
    return False

  @property
  def provider(self) -> Any:
    raise UserError("a program's own examples are of no task: name a task")

  def _tasks(self, split: str) -> list[Any]:
    return self.provider


def seeded(collator: Collator, *numbers: int) -> Collator:
  """A collator whose draws follow from numbers alone; one that does not know how stays as it is."""
  return collator.seeded(*numbers) if hasattr(collator, "seeded") else collator


class _Shuffled:
  """Endless batches, in another order each epoch; a batch may end one epoch and begin the next.

  The position is the number of examples taken. Every host collates all B rows and keeps its own, so that the order and
  the draws do not depend on the number of hosts.
  """

  def __init__(self, data: CollatedDataset, examples: Examples, rows: Sequence[int] | None):
    self._data, self._examples, self._rows, self._taken = data, examples, rows, 0
    self._order: tuple[int, np.ndarray] = -1, np.zeros(0, int)
    config = data.config
    self._identity = {
        "feature_converter": "collated", "batch_size": config.batch_size, "segment_length": config.segment_length,
        "seed": config.seed, "mlm": config.mlm, "collator": str(getattr(config.collator, "identity", "own")),
        "content": examples.content}

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> Batch:
    size = self._data.config.batch_size
    found = [self._examples[self._number(self._taken + i)] for i in range(size)]
    batch = self._data.batch(found, self._rows, (0, self._taken // size))
    self._taken += size
    return batch

  def _number(self, taken: int) -> int:
    """Which example is the one after so many."""
    epoch, place = divmod(taken, len(self._examples))
    if self._order[0] != epoch:
      self._order = epoch, np.random.default_rng([self._data.config.seed, epoch]).permutation(len(self._examples))
    return int(self._order[1][place])

  def get_state(self) -> dict[str, Any]:
    return {**self._identity, "examples": len(self._examples), "taken": self._taken}

  def set_state(self, state: dict[str, Any]) -> None:
    check_state(state, self._identity, lambda: f"{state.get('examples')} examples, now {len(self._examples)}")
    self._taken = state["taken"]
