"""A teacher's likeliest next tokens for each token of a corpus, written down for students that train without it."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

from gpt4x.data.stream import EvaluationSegments
from gpt4x.data.teacher_cache import IDS, LOG_PROBS, Teacher, Writer
from gpt4x.data.token_store import TokenStore
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.models.language_model import LanguageModel, Params
from gpt4x.models.memory import Memory
from gpt4x.models.shapes import Array, in_chunks
from gpt4x.objectives.cached_distillation import outcomes
from gpt4x.partitioning import Partitioner

_PLACE = "place"


def window_of(experiment: Experiment) -> int:
  """How many of a document's latest tokens a model sees when it teaches, wherever segments begin."""
  config = experiment.language_model.config
  return config.eval_memory_length or experiment.dataset.segment_length


def write(experiment: Experiment, params: Params, partitioner: Partitioner, splits: Sequence[str], writer: Writer,
          done: Callable[[str], None] = lambda line: None) -> None:
  """Writes what the experiment's model says of its data: of each document from its start, each by itself."""
  if not experiment.dataset.carries_memory:
    raise UserError("DatasetConfig.feature_converter must be 'stream' for the tokens of a teacher to be those of a"
                    " student: set it so, or let the student train with the teacher itself, by @Distillation()")
  step = jax.jit(functools.partial(_step, experiment.language_model, writer.teacher), donate_argnums=1)
  stores = [store for split in splits for store in experiment.data.stores(split)]
  for store in stores:
    with writer.split(store) as arrays:
      _fill(experiment, params, partitioner, writer.teacher, store, step, arrays)
    done(f"{store.name}: {store.num_tokens:,} tokens of {len(store):,} documents,"
         f" {store.num_tokens * writer.teacher.bytes_per_token:,} bytes")
  writer.finish()


def top_outcomes(logits: Float[Array, "*batch V"],
                 top_k: int) -> tuple[Int[Array, "*batch top"], Float[Array, "*batch outcomes"]]:
  """The likeliest K ids, and the log-probabilities of these and of all others together."""
  _, ids = jax.lax.top_k(logits, top_k)
  return ids, outcomes(logits, ids)


def _step(model: LanguageModel, teacher: Teacher, params: Params, memory: Memory, tokens: jax.Array,
          documents: jax.Array) -> tuple[jax.Array, jax.Array, Memory]:
  output = model.forward(params, tokens, memory, documents, window=teacher.window)

  def of(hidden):
    ids, log_probs = top_outcomes(model.unembed(params, hidden) / teacher.temperature, teacher.top_k)
    return ids, log_probs.astype(jnp.float16)

  if not model.config.loss_chunk:
    ids, log_probs = of(output.hidden)
  else:
    [pieces] = in_chunks(model.config.loss_chunk, output.hidden)
    whole = lambda x: jnp.moveaxis(x, 0, 1).reshape(len(tokens), -1, x.shape[-1])[:, :tokens.shape[1]]
    ids, log_probs = map(whole, jax.lax.map(of, pieces))
  return ids, log_probs, output.memory


def _fill(experiment: Experiment, params: Params, partitioner: Partitioner, teacher: Teacher, store: TokenStore,
          step: Any, arrays: Any) -> None:
  dataset, model = experiment.dataset, experiment.language_model
  rows: Any = partitioner.sharding("layers", None, "batch"), partitioner.sharding("batch")
  with partitioner.activate():
    memory = jax.jit(lambda: model.initial_memory(dataset.batch_size, teacher.window, projected=True),
                     out_shardings=Memory(*rows))()
    waiting = None
    for batch in EvaluationSegments([store], batch_size=dataset.batch_size, segment_length=dataset.segment_length,
                                    beside=[_Places(store)], whole=True):
      tokens, documents = (partitioner.global_array(batch[name], dataset.batch_size)
                           for name in ("decoder_input_tokens", "decoder_segment_ids"))
      ids, log_probs, memory = step(params, memory, tokens, documents)
      _put(arrays, waiting)  # One batch late: the next is computed while this waits.
      waiting = batch[_PLACE], batch["decoder_segment_ids"] > 0, {IDS: ids, LOG_PROBS: log_probs}
    _put(arrays, waiting)


def _put(arrays: Any, waiting: Any) -> None:
  if waiting is not None:
    places, real, found = waiting
    for name, values in found.items():
      arrays[name][places[real]] = np.asarray(values)[real]


class _Places:
  """Where each token lies in its store, as a feature of a batch; see `stream.Beside`."""

  fingerprint, features = _PLACE, {_PLACE: ((), np.int64)}

  def __init__(self, store: TokenStore):
    self._store = store

  def rows(self, document: int) -> dict[str, np.ndarray]:
    place = self._store.place(document)
    return {_PLACE: np.arange(place.start, place.stop)}

  def check(self, patience: float | None = None) -> None:
    pass


def mesh_for(batch_size: int) -> Partitioner:
  """As many devices as divide the rows of a batch."""
  devices = math.gcd(jax.device_count(), batch_size)
  return Partitioner(data=devices, num_devices=devices)
