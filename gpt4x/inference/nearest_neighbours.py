"""The next token by the model and by what followed where its state was much the same (kNN-LM, arXiv:1911.00172).

  p = (1 - weight) p_LM + weight p_kNN

p_kNN is that of the tokens behind the k nearest keys of a datastore, softmax(-distance / temperature), where a distance
is the square of Euclid's.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

from gpt4x.checkpoints.reader import Reader
from gpt4x.data.stream import EvaluationSegments
from gpt4x.data.token_store import TokenStore
from gpt4x.errors import require, UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.datastore import Datastore, Source, Writer
from gpt4x.models import parameters
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Cache, Memory
from gpt4x.models.shapes import Array
from gpt4x.partitioning import Partitioner

K, PROBES = 256, 32
_PLACE = "place"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NearestNeighbours:
  """How a datastore is searched, and what its neighbours count for.

  What is None is as `gpt4x eval --tune` has found it for the store.

  Attributes:
    weight: of p_kNN, from 0 to 1.
    temperature: what squared distances are divided by.
    k: neighbours; None without tuning: 256.
    probes: lists of the store that are looked into; None without tuning: 32.
    exact: whether all lists are.
    layer: the activation that keys must be; None: whichever the store has.
  """

  weight: float | None = None
  temperature: float | None = None
  k: int | None = None
  probes: int | None = None
  exact: bool | None = None
  layer: str | None = None

  def __post_init__(self):
    require(self, "from 0 to 1", lambda value: 0 <= value <= 1, "weight")
    require(self, "a number above 0", lambda value: 0 < value < float("inf"), "temperature")
    require(self, "at least 1", lambda value: value >= 1, "k", "probes")

  def completed(self, tuned: Mapping[str, Any]) -> "NearestNeighbours":
    """With what was tuned, and else the defaults, in the places of None."""
    known = {"k": K, "probes": PROBES, "exact": False} | {
        name: value for name, value in tuned.items() if name in ("weight", "temperature", "k", "probes", "exact")}
    return dataclasses.replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})

  def search(self, store: Datastore, queries: Float[np.ndarray, "n D"],
             own: Int[np.ndarray, " n"] | None = None) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """As `Datastore.search`."""
    k = int(self.k or K)
    return store.search(queries, k, None if self.exact else self.probes, own)


def last_mlp_input(model: LanguageModel) -> str:
  """What the paper finds to be the best key: what the last layer's feed-forward is given, behind its norm."""
  return f"layers.{int(model.config.num_layers or 0) - 1}.mlp_input"


def source(experiment: Experiment, model_dir: str, step: int | None, layer: str,
           texts: Mapping[str, tuple[str, int, int]]) -> Source:
  """What a store of a checkpoint is made of; reads no parameters."""
  from gpt4x.data import vocabularies
  experiment.language_model.module.wanted((layer,))
  directory = Reader(model_dir)
  step, checksum = directory.params_checksum(step)
  frozen = directory.frozen(step)
  checksum = "+".join([checksum, *(frozen[name][2] for name in sorted(experiment.model.frozen_models)
                                   if name in frozen)])  # Of adapters and their base.
  vocabulary = experiment.vocabulary or experiment.data.vocabulary
  return Source(step, checksum, layer, vocabularies.spec(vocabulary), texts)


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """An opened store with how it is searched, checked to be of a checkpoint."""

  store: Datastore
  settings: NearestNeighbours

  @classmethod
  def of(cls, directory: str, experiment: Experiment, model_dir: str, step: int | None,
         settings: NearestNeighbours | None = None, tuning: bool = False) -> "Neighbours":
    """Opens a store; a UserError if it is of another model, or says no weight and temperature though not `tuning`."""
    settings = settings or NearestNeighbours()
    store = Datastore(directory)
    store.check(source(experiment, model_dir, step, settings.layer or store.source.layer, {}), model_dir)
    found = settings.completed({} if tuning else store.tuned())
    if not tuning and (found.weight is None or found.temperature is None):
      raise UserError(f"nothing was tuned for the datastore {directory}: run gpt4x eval --datastore={directory} --tune"
                      " on a held-out split, or set NearestNeighbours.weight and NearestNeighbours.temperature")
    return cls(store, found)

  def model(self, model: LanguageModel) -> LanguageModel:
    """A model that decodes by the mixture; one of weight 0 is the model itself."""
    return Mixture(model, self) if self.settings.weight else model


class Mixture(LanguageModel):
  """A language model whose `prefill` and `decode_step` give the logarithm of the mixture in the place of logits."""

  def __init__(self, model: LanguageModel, neighbours: Neighbours):
    super().__init__(model.config, model.form)
    self.module = model.module
    self._neighbours, self._layer = neighbours, neighbours.store.source.layer

  def prefill(self, params: Params, tokens: Int[Array, "B L"], segment_ids: Int[Array, "B L"], memory: Memory,
              prefix: Int[Array, "B L"] | None = None) -> tuple[Float[Array, "B V"], Memory]:
    hidden, memory, found = self._apply(params, tokens, memory, segment_ids, prefix, window=memory.length,
                                        capture=(self._layer,))
    return self._mixed(params, hidden[:, -1:], found[self._layer][:, -1]), memory

  def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Cache,
                  segment_ids: Int[Array, " B"] | None = None) -> tuple[Float[Array, "B V"], Cache]:
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
    params = parameters.put(params, cache.kernels)
    hidden, cache, found = self._apply(params, tokens, cache, segment_ids, capture=(self._layer,), method="step")
    return self._mixed(params, hidden, found[self._layer][:, 0]), cache

  def _mixed(self, params: Params, hidden: Float[Array, "B one D"], keys: Float[Array, "B D"]) -> Float[Array, "B V"]:
    settings, k = self._neighbours.settings, int(self._neighbours.settings.k or K)
    shapes = [jax.ShapeDtypeStruct((len(keys), k), dtype) for dtype in (jnp.float32, jnp.int32)]
    distances, tokens = jax.pure_callback(self._search, shapes, keys.astype(jnp.float32))
    return mixed(self.unembed(params, hidden)[:, 0], distances, tokens, float(settings.weight or 0),
                 float(settings.temperature or 1))

  def _search(self, keys: Any) -> tuple[np.ndarray, np.ndarray]:
    return self._neighbours.settings.search(self._neighbours.store, np.asarray(keys))


def mixed(logits: Float[Array, "B V"], distances: Float[Array, "B k"], tokens: Int[Array, "B k"], weight: float,
          temperature: float) -> Float[Array, "B V"]:
  """The log-probabilities of the mixture; those of the model alone where no neighbour was found."""
  shares = jax.nn.softmax(jnp.where(jnp.isfinite(distances), -distances / temperature, -jnp.inf), -1)
  rows = jnp.arange(len(logits))[:, None]
  of_neighbours = jnp.zeros_like(logits).at[rows, tokens].add(shares)
  log_probs = jax.nn.log_softmax(logits)
  both = jnp.logaddexp(jnp.log1p(-weight) + log_probs, jnp.log(weight) + jnp.log(of_neighbours))
  return jnp.where(jnp.isfinite(distances[:, :1]), both, log_probs)


# States of a split, as an evaluation reads it.


class Piece(NamedTuple):
  """n tokens of a batch, padding left out: the state before each, its place, and its log-probability by the model."""

  states: np.ndarray  # [n, D]
  tokens: np.ndarray  # [n]
  places: np.ndarray  # [n]; below 0: it has none.
  log_probs: np.ndarray  # [n]


class States:
  """The states of an experiment's model on a split: each document once, with the memory carried along every row."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner, layer: str):
    """A UserError for data that has no stream of text."""
    check(experiment)
    partitioner.check_batch(experiment.dataset.batch_size)
    self._experiment, self._partitioner, self._layer = experiment, partitioner, layer
    self._step = jax.jit(self._segment, donate_argnums=2)

  def __call__(self, params: Params, split: str, first: Mapping[str, int],
               max_batches: int | None = None) -> Iterator[Piece]:
    """Yields the pieces of a split; `first` says the place of the first token of each text, by its fingerprint."""
    experiment, dataset = self._experiment, self._experiment.dataset
    stores = experiment.data.stores(split)
    beside = [_Places(store, first.get(store.fingerprint, -1)) for store in stores]
    batches = EvaluationSegments(stores, batch_size=dataset.batch_size, segment_length=dataset.segment_length,
                                 max_batches=max_batches, beside=beside)
    with self._partitioner.activate():
      memory, waiting = self._empty_memory(params), None
      for _, batch in zip(range(max_batches) if max_batches else iter(int, 1), batches):
        placed = {name: self._partitioner.global_array(values, dataset.batch_size) for name, values in batch.items()
                  if name != _PLACE}
        *found, memory = self._step(params, placed, memory)
        if waiting:
          yield _piece(*waiting)
        waiting = batch, found  # One batch late: the next is computed while this waits.
      if waiting:
        yield _piece(*waiting)

  def _segment(self, params: Params, batch: Batch, memory: Memory) -> tuple[jax.Array, jax.Array, Memory]:
    model = self._experiment.language_model
    output = model.forward(params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                           capture=(self._layer,))
    log_probs = model.token_log_probs(params, output.hidden, batch["decoder_target_tokens"])
    return output.captures[self._layer].astype(jnp.float32), log_probs, output.memory

  def _empty_memory(self, params: Params) -> Memory:
    experiment, dataset = self._experiment, self._experiment.dataset
    model, mesh = experiment.language_model, self._partitioner
    shardings: Any = mesh.sharding("layers", None, "batch"), mesh.sharding("batch")
    memory = functools.partial(model.initial_memory, dataset.batch_size, experiment.eval_memory_length, True)
    made = jax.jit(memory, out_shardings=Memory(*shardings))()
    return jax.jit(model.project_positions, static_argnums=2, donate_argnums=1)(params, made, dataset.segment_length)


def check(experiment: Experiment) -> None:
  """Raises a UserError unless the data is a stream of text."""
  if not experiment.dataset.carries_memory:
    raise UserError(f"DatasetConfig.feature_converter = {experiment.dataset.feature_converter!r} has no stream of text,"
                    " which a datastore is of: set it to 'stream', with a task such as local_text_bytes")
  if experiment.data.modalities:
    raise UserError(f"{experiment.dataset.mixture_or_task_name} has media, and a datastore is of text: name another"
                    " task")
  if jax.process_count() > 1:
    raise UserError("a datastore is read and written by one process: start it with --num_processes=1")


def build(experiment: Experiment, params: Params, partitioner: Partitioner, model_dir: str, writer: Writer, layer: str,
          step: int, split: str, max_tokens: int | None = None, lists: int | None = None) -> int:
  """Writes the keys of a split, or of so many tokens that represent it; returns how many there are."""
  states, dataset, first, texts = States(experiment, partitioner, layer), experiment.dataset, 0, {}
  for store in experiment.data.stores(split):
    texts[store.fingerprint] = store.name, first, store.num_tokens
    first += store.num_tokens
  made_of, count = source(experiment, model_dir, step, layer, texts), 0
  batches = max_tokens and -(-max_tokens // (dataset.batch_size * dataset.segment_length))
  with writer:
    for piece in states(params, split, {name: begin for name, (_, begin, _) in texts.items()}, batches):
      end = len(piece.tokens) if max_tokens is None else min(len(piece.tokens), max_tokens - count)
      writer.add(piece.states[:end], piece.tokens[:end], piece.places[:end])
      count += end
    writer.finish(made_of, lists)
  return count


def _piece(batch: Mapping[str, np.ndarray], found: Any) -> Piece:
  real = batch["decoder_loss_weights"] > 0
  states, log_probs = (np.asarray(values)[real] for values in found)
  return Piece(states, batch["decoder_target_tokens"][real], batch[_PLACE][real], log_probs)


class _Places:
  """Where each token stands among those of a datastore, as a feature of a batch; see `stream.Beside`."""

  fingerprint, features = _PLACE, {_PLACE: ((), np.int64)}

  def __init__(self, store: TokenStore, first: int):
    self._store, self._first = store, first

  def rows(self, document: int) -> dict[str, np.ndarray]:
    place = self._store.place(document)
    numbers = np.arange(place.start, place.stop)
    return {_PLACE: numbers + self._first if self._first >= 0 else np.full_like(numbers, -1)}

  def check(self, patience: float | None = None) -> None:
    pass
