"""What neighbours do for the likelihood of a split, against NumPy; what is tuned where, and what is refused."""

import numpy as np
import pytest

from gpt4x.commands import reading
from gpt4x.data import prepared
from gpt4x.errors import UserError
from gpt4x.evaluation.nearest_neighbours import Interpolation
from gpt4x.inference import nearest_neighbours
from gpt4x.inference.datastore import Datastore, Writer
from gpt4x.partitioning import Partitioner
from tests.inference import text_run

HELD = ["memory attends to its past", "to attend"]
MESH = Partitioner(data=1, num_devices=1)


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  """(directory of a run, its parameters, its store of the training text)."""
  folder = tmp_path_factory.mktemp("run")
  train = text_run.write_texts(folder / "train.jsonl", ["memory attends", "attends to its past", "past segments"])
  held = text_run.write_texts(folder / "held.jsonl", HELD)
  text_run.write_texts(folder / "other.jsonl", ["segments attend"])
  text_run.write(folder / "run", LocalText__files=str(train), LocalText__validation_files=str(held))
  experiment = reading.saved_experiment(str(folder / "run"))
  step, params = experiment.restore_params(str(folder / "run"), MESH)
  with prepared.new_folder(folder / "store") as made:
    nearest_neighbours.build(experiment, params, MESH, str(folder / "run"), Writer(made, 8), "final", step, "train")
  return folder / "run", params, folder / "store"


def interpolation(run, split="validation", tune=False, **bindings):
  bindings = [f"{name.replace('__', '.')}={value!r}" for name, value in bindings.items()]
  experiment = reading.saved_experiment(str(run[0]), bindings=bindings)
  return Interpolation(experiment, MESH, str(run[0]), None, split, str(run[2]), tune)


def costs(run, split, temperature, k, own=False):
  """(nats of the model, probability by the neighbours) of each token, by whole documents, in their order."""
  experiment = reading.saved_experiment(str(run[0]))
  model, store, (texts,) = experiment.language_model, Datastore(str(run[2])), experiment.data.stores(split)
  found = []
  for number in range(len(texts)):
    document = texts[number]
    logits, states = text_run.whole(model, run[1], [0, *document[:-1]], "final")
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    keys = np.asarray(store._keys, np.float64)
    for place, state in enumerate(states.astype(np.float64)):
      distances = ((keys - state)**2).sum(-1)
      if own:
        distances[store._places == texts.place(number).start + place] = np.inf
      order = np.argsort(distances, kind="stable")[:k]
      shares = np.exp(-distances[order] / temperature)
      hits = store._tokens[order] == document[place]
      found.append((-log_p[place, document[place]], (shares * hits).sum() / shares.sum()))
  return np.array(found).T


@pytest.mark.parametrize("split", ["validation", "train"])
def test_the_mixture_s_likelihood(run, split):
  """On the text of the store itself, each token's own key is left out."""
  settings = {"NearestNeighbours__weight": 0.3, "NearestNeighbours__temperature": 1.5, "NearestNeighbours__k": 6}
  found = interpolation(run, split, **settings)(run[1])
  nats, shares = costs(run, split, 1.5, 6, own=split == "train")
  losses = -np.log(0.7 * np.exp(-nats) + 0.3 * shares)
  np.testing.assert_allclose(found["knn_loss"], losses.mean(), rtol=2e-3)
  np.testing.assert_allclose(found["knn_gain"], 100 * (1 - losses.mean() / nats.mean()), rtol=0.03, atol=0.1)
  num_bytes = len(losses) - (len(HELD) if split == "validation" else 3)  # EOS has none.
  np.testing.assert_allclose(found["knn_bits_per_byte"], losses.sum() / np.log(2) / num_bytes, rtol=2e-3)
  assert found.get("knn_leave_one_out") == (1.0 if split == "train" else None)


def test_of_weight_0_it_is_the_model_s(run):
  found = interpolation(run, NearestNeighbours__weight=0.0, NearestNeighbours__temperature=1.0)(run[1])
  assert found["knn_gain"] == 0


def test_tuning_is_kept_apart_from_reporting(run):
  with pytest.raises(UserError, match="nothing was tuned for the datastore"):
    interpolation(run)
  with pytest.raises(UserError, match="made of local_text_bytes/train itself, so nothing can be tuned on it"):
    interpolation(run, "train", tune=True)
  tuned = interpolation(run, tune=True, NearestNeighbours__k=6)(run[1])
  assert tuned.keys() == {"tuned_weight", "tuned_temperature", "tuning_gain"} and tuned["tuning_gain"] >= 0
  with pytest.raises(UserError, match="were tuned on local_text_bytes/validation itself: report them on another"):
    interpolation(run)

  other = {"LocalText__validation_files": str(run[0].parent / "other.jsonl")}
  reported = interpolation(run, **other)
  assert reported._neighbours.settings.k == 6
  found = reported(run[1])
  assert (found["knn_weight"], found["knn_temperature"]) == (tuned["tuned_weight"], tuned["tuned_temperature"])
  # What is given counts as it is; it was not tuned here.
  interpolation(run, NearestNeighbours__weight=0.1, NearestNeighbours__temperature=1.0)


def test_what_is_tuned_is_the_best_there_is(run):
  """No weight and temperature of the grid are better, by NumPy's count."""
  tuned = interpolation(run, tune=True, NearestNeighbours__k=6)(run[1])
  def loss(weight, temperature):
    nats, shares = costs(run, "validation", temperature, 6)
    return -np.log((1 - weight) * np.exp(-nats) + weight * shares).mean()
  best = loss(tuned["tuned_weight"], tuned["tuned_temperature"])
  for weight, factor in ((0.0, 1), (0.06, 1), (-0.06, 1), (0, 2), (0, 0.5), (0.3, 4)):
    changed = tuned["tuned_weight"] + weight if weight or factor != 1 else 0.0
    assert best <= loss(min(max(changed, 0), 0.94), tuned["tuned_temperature"] * factor) + 1e-3
