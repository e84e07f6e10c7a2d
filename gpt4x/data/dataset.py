"""A seqio task or mixture as NumPy batches, for training and for evaluation.

  * `stream`: pre-training. Endless rows of segments for a model with memory (`stream.py`), from token stores.
  * `lm`, `causal_lm`, `prefix_lm`, `masked_lm`: examples, one a row or several packed, through seqio's feature
    converters. `lm` reads targets alone, and what a task knows of each of their tokens (`feature_converters.py`). The
    next two have inputs before the targets, which see each other in both directions with `prefix_lm`. With `masked_lm`
    the inputs are the targets with some of them hidden, and all see each other.

Every batch holds `stream.FEATURES`, [B, L] each; the last two add `decoder_causal_attention`, and a vocabulary with
media `decoder_target_modality` (`modalities.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, Literal, Protocol, TYPE_CHECKING

import gin
import numpy as np

from gpt4x.data import example_rows, tokenization
from gpt4x.data.modalities import Modalities
from gpt4x.data.settled import settle
from gpt4x.data.stream import Beside, EvaluationSegments, SegmentStream
from gpt4x.errors import nearest, UserError

if TYPE_CHECKING:
  import seqio

  from gpt4x.data.chat_template import Template
  from gpt4x.data.token_store import TokenStore

Batch = dict[str, np.ndarray]

# The task features that each feature converter reads.
_TASK_FEATURES = {"stream": ("targets",), "lm": ("targets",), "causal_lm": ("inputs", "targets"),
                  "prefix_lm": ("inputs", "targets"), "masked_lm": ("inputs", "targets", "weights")}


class TokenFeatures(Protocol):
  """Where more features of a stream's batches come from, such as what a teacher says of each token."""

  @property
  def features(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
    """As `Beside` has them."""
  def of(self, store: "TokenStore", needed: bool) -> Beside | None:
    """Those of a split's tokens; a UserError if there are none that are `needed`."""
  def error(self, why: str) -> UserError: ...


class DatasetIterator(Protocol):
  """An endless iterator of batches that knows its position."""

  def __iter__(self) -> Iterator[Batch]: ...
  def __next__(self) -> Batch: ...

  def get_state(self) -> dict[str, Any]:
    """The position after the last batch, as JSON; equal on all hosts."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position; a UserError if it is one of other data."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """What to read, and how to lay it out.

  Attributes:
    mixture_or_task_name: a name registered with seqio.
    task_feature_lengths: {"inputs": A, "targets": C}, L = A + C, for `causal_lm` and `prefix_lm`; {"targets": L} for
      the others.
    batch_size: B, the rows of all hosts together.
    feature_converter: `stream`, `lm`, `causal_lm`, `prefix_lm` or `masked_lm`.
    pack: whether all but the first put several examples into a row.
    seed: decides the order of examples.
    repeat: how often each example stands in a training batch, in rows one after another.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int]
  batch_size: int
  feature_converter: Literal["stream", "lm", "causal_lm", "prefix_lm", "masked_lm"] = "stream"
  pack: bool = False
  seed: int = 0
  repeat: int = 1

  def __post_init__(self):
    if self.feature_converter not in _TASK_FEATURES:
      raise UserError(f"DatasetConfig.feature_converter = {self.feature_converter!r} is unknown:"
                      f" use one of {', '.join(_TASK_FEATURES)}")
    expected, lengths = _TASK_FEATURES[self.feature_converter], self.task_feature_lengths
    expected = ("targets",) if self.feature_converter == "masked_lm" else expected  # All are as long.
    if set(lengths) != set(expected) or min(lengths.values()) < 1:
      raise UserError(f"DatasetConfig.task_feature_lengths = {dict(lengths)}, but {self.feature_converter!r} takes a"
                      f" positive length for {' and '.join(expected)}: change TASK_FEATURE_LENGTHS or"
                      " DatasetConfig.feature_converter")
    if self.batch_size < 1:
      raise UserError(f"DatasetConfig.batch_size = {self.batch_size} must be at least 1: set BATCH_SIZE")
    if self.pack and self.carries_memory:
      raise UserError("DatasetConfig.pack = True, but a stream has no padding to fill: unset it, or use 'lm'")
    if self.repeat < 1 or self.repeat > 1 and (self.carries_memory or self.batch_size % self.repeat):
      raise UserError(f"DatasetConfig.repeat = {self.repeat} must be 1, or a part of BATCH_SIZE = {self.batch_size} for"
                      " another feature converter than 'stream': correct one of them")

  @property
  def carries_memory(self) -> bool:
    """Whether a row continues where it stopped in the last batch; if not, its memory is to be reset."""
    return self.feature_converter == "stream"

  @property
  def segment_length(self) -> int:
    """L."""
    return sum(self.task_feature_lengths.values())

  def open(self, vocabulary: "seqio.Vocabulary | None" = None,
           token_features: TokenFeatures | None = None) -> "Dataset":
    """What it names; the arguments are those of `Dataset`. Data of another kind is another class's."""
    return Dataset(self, vocabulary, token_features)


class Dataset:
  """The task or mixture of a DatasetConfig, found and checked once.

  Attributes:
    config: what to read, and how to lay it out.
    vocabulary: what the targets' tokens stand for.
    modalities: of the vocabulary; false without media.
  """

  def __init__(self, config: DatasetConfig, vocabulary: "seqio.Vocabulary | None" = None,
               token_features: TokenFeatures | None = None):
    """Takes the vocabulary of the run that the data is for (None: that of the task, as it is now), and more features.

    Training needs these; an evaluation has them where there are some of all its tokens.
    """
    self.config, self._provider, self._token_features = config, _find(config, vocabulary), token_features
    self.vocabulary: seqio.Vocabulary = self._provider.output_features["targets"].vocabulary
    self.modalities = Modalities(self.vocabulary, config.mixture_or_task_name)
    self._store = functools.cache(tokenization.open_or_build)  # All evaluations of a run read the same tokens.

  def train(self, split: str = "train", rows: Sequence[int] | None = None) -> DatasetIterator:
    """The endless batches of this host: `rows` of the B rows, rising; None for all."""
    config, provider = self.config, self._provider
    rates = {task: rate for task in self._tasks(split) if (rate := _rate(provider, task)) > 0}
    if not rates:
      raise UserError(f"mixture {provider.name}, split {split}: every rate is 0: give a task a rate")
    if not config.carries_memory:
      if self._token_features:
        raise self._token_features.error("has rows for the tokens of a stream: set DatasetConfig.feature_converter ="
                                         " 'stream', or train with the teacher itself, by @Distillation()")
      return self.modalities.training(example_rows.Examples(config, provider, split, rates, rows))
    stores = [self._store(task, split) for task in rates]
    return self.modalities.training(SegmentStream(
        stores, rates=list(rates.values()), beside=self._beside(stores, needed=True),
        batch_size=config.batch_size, segment_length=config.segment_length, rows=rows, seed=config.seed))

  def evaluation(self, split: str, rows: Sequence[int] | None = None,
                 max_batches: int | None = None) -> Iterator[Batch]:
    """This host's rows of batches that hold each example once; padding has segment id 0.

    With `max_batches` the first so many of them represent the split: see EvaluationSegments.
    """
    config, tasks = self.config, self._tasks(split)
    if not config.carries_memory:
      return self.modalities.evaluation(example_rows.once(config, tasks, split, rows))
    stores = [self._store(task, split) for task in tasks]
    return self.modalities.evaluation(EvaluationSegments(
        stores, batch_size=config.batch_size, segment_length=config.segment_length, rows=rows,
        max_batches=max_batches, beside=self._beside(stores, needed=False)))

  def documents(self, split: str) -> Iterator[np.ndarray]:
    """The tokens of each document of a split, in the order of the corpus."""
    for store in self.stores(split):
      yield from (store[i] for i in range(len(store)))
      store.check()

  def stores(self, split: str) -> list["TokenStore"]:
    """The token stores of a split, one for each task."""
    return [self._store(task, split) for task in self._tasks(split)]

  def _beside(self, stores: Sequence["TokenStore"], needed: bool) -> list[Beside]:
    """The further features of each store; none at all where one has none."""
    found = [self._token_features.of(store, needed) for store in stores] if self._token_features else []
    return [] if None in found else [one for one in found if one]

  @property
  def provider(self) -> "seqio.Task | seqio.Mixture":
    """The task or mixture, with the vocabulary that stays for as long as this object."""
    return self._provider

  @property
  def chat_template(self) -> "Template | None":
    """How the conversations of the task are written; None if it has none."""
    from gpt4x.data.chat_template import ChatTemplate
    return ChatTemplate().read() if any(getattr(step, "writes_chats", False) for step in self._steps()) else None

  @property
  def sequences(self) -> str | None:
    """What an example has several sequences of: 'pairs' of answers, 'triples' of a graph; None: it has one."""
    if "segments" not in example_rows.beside_of(self._provider):
      return None
    return next((kind for step in self._steps() if (kind := getattr(step, "sequences", None))), "pairs")

  @property
  def composition(self) -> list[str]:
    """A line about each prepared set that the data is made of; none for other data."""
    import seqio

    sources = [task.source for task in seqio.get_subtasks(self._provider)]
    return [str(share) for source in sources if hasattr(source, "shares") for share in source.shares(self.vocabulary)]

  def _steps(self) -> list[Any]:
    """The preprocessors of all tasks, as they are without arguments of their own."""
    import seqio

    return [getattr(step, "func", step) for task in seqio.get_subtasks(self._provider) for step in task.preprocessors]

  @property
  def has_metrics(self) -> bool:
    """Whether a task has seqio metrics of its own, for infer-evaluation."""
    import seqio

    return any(task.metric_objs for task in seqio.get_subtasks(self._provider))

  def check_split(self, split: str) -> None:
    """Raises UserError if there is no such split; reads no data."""
    if split not in self._provider.splits:
      known = ", ".join(sorted(self._provider.splits))
      raise UserError(f"task {self._provider.name} has no split {split!r}: use one of {known}, or to train without"
                      " evaluation, EVAL_PERIOD = None")

  def _tasks(self, split: str) -> list["seqio.Task"]:
    """The tasks that have a split."""
    import seqio

    self.check_split(split)
    return [task for task in seqio.get_subtasks(self._provider) if split in task.splits]


def host_rows(batch_size: int, process_index: int, process_count: int) -> range:
  """An equal share of the B rows for one of several hosts."""
  if batch_size % process_count:
    raise UserError(f"batch_size = {batch_size} does not divide over {process_count} hosts: set BATCH_SIZE to a"
                    f" multiple of {process_count}")
  share = batch_size // process_count
  return range(process_index * share, (process_index + 1) * share)


def _find(config: DatasetConfig, own: "seqio.Vocabulary | None") -> "seqio.Task | seqio.Mixture":
  """The task or mixture by its name, with the vocabulary of its run, checked to have what `config` asks of it."""
  import seqio

  from gpt4x.data import vocabularies

  name = config.mixture_or_task_name
  known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in known:
    raise UserError(f"unknown task or mixture {name!r}{nearest(name, known)} (or import the module that adds it)")
  provider = seqio.get_mixture_or_task(name)
  missing = sorted(set(_TASK_FEATURES[config.feature_converter]) - set(provider.output_features))
  if missing:
    raise UserError(f"task {name} has no feature {' or '.join(missing)}, which the feature converter"
                    f" {config.feature_converter!r} needs: choose another task or DatasetConfig.feature_converter")
  beside = example_rows.beside_of(provider)
  masked = config.feature_converter == "masked_lm"
  if "inputs" in provider.output_features and "inputs" not in config.task_feature_lengths and not masked:
    suited = "'masked_lm'" if beside else "'causal_lm' or 'prefix_lm'"
    raise UserError(f"task {name} has inputs, which the feature converter {config.feature_converter!r} would drop:"
                    f" set DatasetConfig.feature_converter = {suited}")
  if beside and config.feature_converter != ("masked_lm" if "inputs" in provider.output_features else "lm"):
    raise UserError(f"task {name} says which tokens count, which the feature converter {config.feature_converter!r}"
                    " would drop: set DatasetConfig.feature_converter = 'lm'")
  if "segments" in beside and config.pack:
    raise UserError(f"task {name} has several sequences an example, which are not packed: unset DatasetConfig.pack")
  provider = settle(provider, own)
  first, *others = [task.output_features["targets"].vocabulary for task in seqio.get_subtasks(provider)]
  if any(other != first for other in others):
    raise UserError(f"the tasks of mixture {name} differ in their vocabulary: give all of them one vocabulary")
  if vocabularies.first_text_id(first) == 0 and not config.carries_memory and not beside:
    raise UserError(f"the vocabulary of task {name} has text for id 0, which {config.feature_converter!r} takes for"
                    " padding: set DatasetConfig.feature_converter = 'stream'")
  return provider


def _rate(provider: "seqio.Task | seqio.Mixture", task: "seqio.Task") -> float:
  if provider is task:
    return 1.0
  try:
    return float(provider.get_rate(task))
  except Exception as error:  # Some of seqio's rate functions need statistics that only cached tasks have.
    raise UserError(f"mixture {provider.name}: the rate of task {task.name} cannot be computed"
                    f" ({type(error).__name__}): give it a number") from error
