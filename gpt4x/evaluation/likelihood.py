"""Likelihood: an experiment's objective on each example of a split once, with the memory carried along every row."""

from collections.abc import Callable, Mapping
import itertools
import math
from typing import Any, TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.checkpoints import frozen_models
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.data import vocabularies
from gpt4x.data.row_mixture import PART
from gpt4x.errors import UserError
from gpt4x.evaluation import gallery, shuffled_media
from gpt4x.evaluation.samples import shower
from gpt4x.evaluation.task_metrics import TaskMetrics
from gpt4x.experiment import Experiment
from gpt4x.media.layout import MODALITIES
from gpt4x.models.language_model import Batch
from gpt4x.models.memory import map_memories, Memory
from gpt4x.models.sums import metrics, Sum, Sums
from gpt4x.objectives.groups import without_absent
from gpt4x.objectives.objective import Objective
from gpt4x.partitioning import Partitioner

if TYPE_CHECKING:  # What few ask for.
  from gpt4x.evaluation.retrieved_documents import Retrieved

# What the likelihood of an exact codec's codes is one of.
_BITS = {"image": "bits_per_dim", "audio": "bits_per_sample"}


class Evaluator:
  """The means of an objective's sums on a split of an experiment's data, with what follows from them in bits."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner, split: str, shuffle_media: bool = False,
               retrieved: "Retrieved | None" = None):
    """With `shuffle_media`, the inputs of the examples have each other's media; with `retrieved`, documents ahead."""
    experiment.check_vocabulary()
    experiment.data.check_split(split)
    partitioner.check_batch(experiment.dataset.batch_size)
    if shuffle_media:
      shuffled_media.check(experiment.data)
    self._experiment, self._partitioner, self._split = experiment, partitioner, split
    self._shuffle_media, self._retrieved = shuffle_media, retrieved
    self._collect = experiment.collector(partitioner)
    self._units = _units_per_token(experiment.data.vocabulary)
    model, objective, dataset = experiment.model, experiment.objective, experiment.dataset
    token_bytes = vocabularies.token_bytes(experiment.data.vocabulary).astype(np.float32)
    self._token_bytes = jax.device_put(
        np.pad(token_bytes, (0, model.config.vocab_size - len(token_bytes))), partitioner.replicated)

    def step(params, frozen, token_bytes, batch, memory):
      sums, memory = objective(model, params, frozen, batch, memory, None)
      return sums, target_bytes(token_bytes, batch), memory

    def empty_memory(params):
      # Memory of keys and values gives the same numbers as one of layer inputs, and projects no past again.
      memory = objective.initial_memory(model, dataset.batch_size, experiment.eval_memory_length, projected=True)
      if dataset.carries_memory and isinstance(memory, Memory):
        memory = experiment.language_model.project_positions(params, memory, dataset.segment_length)
      return memory

    self._step = jax.jit(step, donate_argnums=4)
    shardings: Any = partitioner.sharding("layers", None, "batch"), partitioner.sharding("batch")
    memory = jax.eval_shape(lambda: objective.initial_memory(model, dataset.batch_size, 0, projected=True))
    self._empty_memory = jax.jit(empty_memory, out_shardings=map_memories(lambda _: Memory(*shardings), memory))

  def __call__(self, params: Any, frozen: Any = None, between_batches: Callable[[], None] = lambda: None,
               max_batches: int | None = None) -> dict[str, float]:
    """Means over all targets, `loss` among them, and `tokens`; what the objective derives from its sums.

    Where the loss is a likelihood, in nats per token, `perplexity` and `bits_per_byte` besides.

    `partial` is 1 if the split has more batches than were asked for, which are the same ones at each call. The bytes
    are those of the text that the targets stand for: the end of a document costs bits and has no bytes. With media in
    the vocabulary, bits per byte are of the text alone, and those of media whose codec loses nothing have their own.
    """
    dataset, partitioner = self._experiment.dataset, self._partitioner
    total: _Total = {}, {}
    rows, previous = partitioner.host_rows(dataset.batch_size), None
    with partitioner.activate():
      memory = self._empty_memory(params)
      batches = (shuffled_media.batches(self._experiment.data, self._split, rows) if self._shuffle_media else
                 self._experiment.data.evaluation(self._split, rows, max_batches))
      if self._retrieved:
        batches = self._retrieved.batches(batches)
      for number, batch in enumerate(itertools.islice(batches, max_batches)):
        between_batches()
        if self._collect:
          batch = self._collect(params, batch, seed=0, number=number, group=1)
        placed = {name: partitioner.global_array(value, dataset.batch_size) for name, value in batch.items()}
        sums, num_bytes, memory = self._step(params, frozen or {}, self._token_bytes, placed, memory)
        if not dataset.carries_memory:
          memory = self._empty_memory(params)
        total = _add(total, previous)  # One batch late: the next is computed while this waits.
        previous = sums, num_bytes
    total = _add(total, previous)
    partial = {"partial": 1.0} if max_batches is not None and next(batches, None) is not None else {}
    where = f"split {self._split} of {dataset.mixture_or_task_name}"
    return _means(*total, where, self._experiment.objective, self._units) | partial


_Total = tuple[dict[str, Sum], dict[str, float]]  # The sums, and the bytes of text of each group of `target_bytes`.


def _add(total: _Total, batch: tuple[Sums, Mapping[str, jax.Array]] | None) -> _Total:
  """Adds the sums and bytes of a batch in float64, which counts billions of tokens exactly."""
  (sums, num_bytes), (new_sums, new_bytes) = total, jax.device_get(batch or ({}, {}))
  double: dict[str, Any] = jax.tree.map(np.float64, dict(new_sums))
  return ({name: sums[name] + one if name in sums else one for name, one in double.items()},
          {name: num_bytes.get(name, 0.0) + float(one) for name, one in new_bytes.items()})


def _means(sums: Mapping[str, Sum], num_bytes: Mapping[str, float], where: str,
           objective: Objective | None = None, units: Mapping[str, float] | None = None) -> dict[str, float]:
  if not sums or not sums["loss"].weight:
    raise UserError(f"{where} has no target tokens: choose another split")
  found = {name: float(value) for name, value in metrics(sums).items()}
  by_modality = all(f"loss_{name}" in sums for name in MODALITIES)
  groups = MODALITIES if by_modality else [part for part in num_bytes if part]  # Whose targets are not weighted.
  counts = [sums[f"loss_{name}"] for name in groups] or [sums["loss"]]
  found["tokens"] = sum(float(one.weight) for one in counts)
  if derived := getattr(objective, "derived", None):
    found |= derived(sums)
  if not getattr(objective, "is_likelihood", True):
    return found
  found["perplexity"] = perplexity(found["loss"])
  for part, size in num_bytes.items():
    loss = f"loss_{part}" if part else "loss_text" if by_modality else "loss"
    if size and (part or len(num_bytes) == 1):  # What several parts need for a byte says nothing of any.
      found[f"bits_per_byte{part and '_'}{part}"] = float(sums[loss].value) / math.log(2) / size
  found = without_absent(found)
  return found | {_BITS[medium]: found[f"loss_{medium}"] / math.log(2) / each
                  for medium, each in (units or {}).items() if f"loss_{medium}" in found}


def _units_per_token(vocabulary: Any) -> dict[str, float]:
  """Dimensions of an image, or samples of a sound, that a token stands for on average; where a codec loses nothing."""
  codecs = getattr(vocabulary, "codecs", {})
  return {medium: codecs[medium].units_per_cell / len(codecs[medium].num_codes) for medium in _BITS
          if codecs.get(medium) and codecs[medium].exact}


def perplexity(loss: float) -> float:
  return math.inf if loss > 700 else math.exp(loss)  # A float ends at e^709.


def target_bytes(token_bytes: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """The bytes of text that a batch's weighted targets stand for, given the bytes of each token [V].

  Those of all are called ''; those of a part of a mixture of rows have its name.
  """
  weights, parts = batch["decoder_loss_weights"], [name for name in batch if name.startswith(PART)]
  if "decoder_target_modality" in batch or parts:  # Where weights say what a modality or a part counts for.
    weights = (weights > 0).astype(weights.dtype)
  each = weights * token_bytes[batch["decoder_target_tokens"]]
  return {"": jnp.sum(each), **{name.removeprefix(PART): jnp.sum(each * batch[name]) for name in parts}}


@gin.configurable(allowlist=["partitioner", "max_batches", "shuffle_media", "samples"])
def evaluate(model_dir: str, experiment: Experiment, partitioner: Partitioner | None = None, step: int | None = None,
             split: str = "validation", max_batches: int | None = None, shuffle_media: bool = False,
             samples: int = 0, datastore: str | None = None, tune: bool = False, retrieve: str | None = None,
             documents: int = 1) -> dict[str, float]:
  """Evaluates a checkpoint; returns the metrics of `Evaluator`, those of seqio's infer-evaluation, and `step`.

  The vocabulary is the one that the run keeps. The mesh may differ from the run's. Without `partitioner`, as many
  devices split the batch as divide its rows. With `shuffle_media`, examples have each other's media in their inputs:
  what a model loses by that is what it takes from media. So many `samples` of media are drawn and measured, and
  DIR/samples/step_STEP shows them. With a `datastore`, also what its neighbours make of the likelihood; see
  `nearest_neighbours.Interpolation`. With `retrieve`, an index, so many `documents` are put ahead of each prompt.
  """
  if max_batches is not None and max_batches < 1:
    raise UserError(f"evaluate.max_batches = {max_batches} must be at least 1, or None for the whole split")
  if samples < 0:
    raise UserError(f"evaluate.samples = {samples} must be at least 0")
  if partitioner is None:
    devices = math.gcd(jax.device_count(), experiment.dataset.batch_size)
    # Every process has to take part.
    partitioner = Partitioner() if jax.process_count() > 1 else Partitioner(data=devices, num_devices=devices)
  experiment = experiment.of_run(model_dir)
  retrieved, interpolate = None, None
  if retrieve:
    from gpt4x.evaluation.retrieved_documents import Retrieved
    retrieved = Retrieved(experiment, model_dir, step, retrieve, documents)
    experiment = retrieved.experiment
  evaluator = Evaluator(experiment, partitioner, split, shuffle_media, retrieved)
  if datastore:
    from gpt4x.evaluation.nearest_neighbours import Interpolation
    interpolate = Interpolation(experiment, partitioner, model_dir, step, split, datastore, tune)
  show = shower(experiment, split) if samples else None
  models = experiment.frozen_models
  references = frozen_models.find(models, Checkpoints(model_dir).frozen(step), strict=False)
  step, params = experiment.restore_params(model_dir, partitioner, step)
  held = frozen_models.load(models, references, partitioner)
  found = {"step": step} | evaluator(params, held, max_batches=max_batches)
  found |= TaskMetrics(experiment, split, shuffle_media, retrieved)(params)
  if retrieved:
    found |= retrieved.report()
  if interpolate:
    found |= interpolate(params, max_batches)
  if show:
    measures, shown = show(params, samples)
    shown.write(gallery.place(model_dir, step))
    found |= measures
  return found
