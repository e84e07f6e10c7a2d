"""What a datastore's neighbours do for the likelihood of a split, and which weight and temperature are best there."""

import math
from typing import Any

import numpy as np

from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import nearest_neighbours
from gpt4x.inference.datastore import target_probabilities
from gpt4x.inference.nearest_neighbours import NearestNeighbours, Neighbours, Piece, States
from gpt4x.partitioning import Partitioner

# What is tried: weights, and temperatures as shares of the median distance of a neighbour.
WEIGHTS = np.arange(0, 0.96, 0.02)
SHARES = 2.0 ** np.arange(-7, 1.5, 0.5)


class Interpolation:
  """Measures the mixture of a model and a datastore on a split of text; or tunes it there.

  A weight that was tuned is reported on other text than it was tuned on, and it is tuned on other text than the store
  has. Where a store of the split itself is given, the key of the very token is never among its neighbours, and
  `knn_leave_one_out` says so.
  """

  def __init__(self, experiment: Experiment, partitioner: Partitioner, model_dir: str, step: int | None, split: str,
               datastore: str, tune: bool = False):
    """Opens the store, and compiles nothing; a UserError if it does not fit the checkpoint or the split."""
    nearest_neighbours.check(experiment)
    settings = NearestNeighbours()
    self._neighbours = Neighbours.of(datastore, experiment, model_dir, step, settings, tuning=tune)
    self._split, self._tune = split, tune
    self._texts = {store.fingerprint: store.name for store in experiment.data.stores(split)}
    store, tuned = self._neighbours.store, self._neighbours.store.tuned()
    if tune and (known := sorted(self._texts.keys() & store.source.texts.keys())):
      raise UserError(f"the datastore {datastore} was made of {self._texts[known[0]]} itself, so nothing can be tuned"
                      " on it: give another --split or other files, which the store has not seen")
    relies = settings.weight is None or settings.temperature is None
    if not tune and relies and (known := sorted(self._texts.keys() & set(tuned.get("texts", ())))):
      raise UserError(f"the weight and temperature of {datastore} were tuned on {self._texts[known[0]]} itself: report"
                      " them on another --split or on other files, or tune them on others (--tune)")
    self._first = {content: first for content, (_, first, _) in store.source.texts.items()}
    self._states = States(experiment, partitioner, store.source.layer)
    self._token_bytes = vocabularies.token_bytes(experiment.data.vocabulary)

  def __call__(self, params: Any, max_batches: int | None = None) -> dict[str, float]:
    """`knn_loss`, `knn_perplexity`, `knn_bits_per_byte`, and `knn_gain`, by how many percent the model's own loss is
    more; with `tune` what was found, which is kept in the store."""
    pieces = self._states(params, self._split, self._first, max_batches)
    return self._tuned(pieces) if self._tune else self._measured(pieces)

  def _measured(self, pieces: Any) -> dict[str, float]:
    settings = self._neighbours.settings
    weight, temperature = float(settings.weight or 0), float(settings.temperature or 1)
    plain, loss, num_bytes, count, own = 0.0, 0.0, 0.0, 0, False
    for piece in pieces:
      own = own or bool((piece.places >= 0).any())
      distances, tokens = self._search(piece)
      probabilities = target_probabilities(distances, tokens, piece.tokens, temperature)
      loss += float(_losses(piece, distances, probabilities, np.array([weight])).sum())
      plain -= float(piece.log_probs.astype(np.float64).sum())
      num_bytes += float(self._token_bytes[piece.tokens].sum())
      count += len(piece.tokens)
    if not count:
      raise UserError(f"split {self._split} has no target tokens: choose another")
    found = {"knn_loss": loss / count, "knn_perplexity": math.exp(min(loss / count, 700))}
    if num_bytes:
      found["knn_bits_per_byte"] = loss / math.log(2) / num_bytes
    found |= {"knn_gain": 100 * (1 - loss / plain), "knn_weight": weight, "knn_temperature": temperature}
    return found | ({"knn_leave_one_out": 1.0} if own else {})

  def _tuned(self, pieces: Any) -> dict[str, float]:
    losses, plain, temperatures, count = np.zeros((len(SHARES), len(WEIGHTS))), 0.0, None, 0
    for piece in pieces:
      distances, tokens = self._search(piece)
      if temperatures is None:
        temperatures = SHARES * max(float(np.median(distances[np.isfinite(distances)])), 1e-6)
      for number, temperature in enumerate(temperatures):
        probabilities = target_probabilities(distances, tokens, piece.tokens, float(temperature))
        losses[number] += _losses(piece, distances, probabilities, WEIGHTS).sum(0)
      plain -= float(piece.log_probs.astype(np.float64).sum())
      count += len(piece.tokens)
    if temperatures is None:
      raise UserError(f"split {self._split} has no target tokens: choose another")
    row, column = np.unravel_index(np.argmin(losses), losses.shape)
    weight, temperature = round(float(WEIGHTS[column]), 4), float(f"{temperatures[row]:.6g}")
    settings = self._neighbours.settings
    self._neighbours.store.keep_tuned({
        "weight": weight, "temperature": temperature, "k": settings.k, "probes": settings.probes,
        "exact": settings.exact, "split": self._split, "texts": sorted(self._texts), "tokens": count})
    return {"tuned_weight": weight, "tuned_temperature": temperature,
            "tuning_gain": 100 * (1 - float(losses[row, column]) / plain)}

  def _search(self, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    own = piece.places if (piece.places >= 0).any() else None
    return self._neighbours.settings.search(self._neighbours.store, piece.states, own)


def _losses(piece: Piece, distances: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The nats [n, weights] that each token costs; those of the model alone where no neighbour was found."""
  found = np.isfinite(distances[:, :1])
  shares = np.where(found, weights, 0.0)
  own = np.exp(piece.log_probs.astype(np.float64))[:, None]
  with np.errstate(divide="ignore"):
    return -np.where(shares > 0, np.log((1 - shares) * own + shares * probabilities[:, None]),
                     piece.log_probs.astype(np.float64)[:, None])
