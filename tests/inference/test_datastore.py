"""Datastores of hidden states: searching, damage, and the mixture, each against NumPy."""

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest

from gpt4x.commands import reading
from gpt4x.data import prepared
from gpt4x.errors import UserError
from gpt4x.inference import datastore, nearest_neighbours
from gpt4x.inference.datastore import Datastore, Source, Writer
from gpt4x.inference.engine import Engine
from gpt4x.inference.nearest_neighbours import NearestNeighbours, Neighbours
from gpt4x.inference.sampling import Sampling
from gpt4x.partitioning import Partitioner
from tests.inference import text_run

SOURCE = Source(3, "abcdef0123", "final", {"class": "ByteVocabulary", "extra_ids": 0}, {"text": ("a/train", 0, 90)})
D, N = 6, 90


def write_store(path, keys, tokens, lists=None):
  with prepared.new_folder(path) as folder, Writer(folder, keys.shape[1]) as writer:
    for start in range(0, len(keys), 32):
      part = slice(start, start + 32)
      writer.add(keys[part], tokens[part], np.arange(len(keys))[part])
    writer.finish(SOURCE, lists)
  return Datastore(str(path))


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """Keys with equal ones among them, their tokens, and stores of one list and of several."""
  draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("stores")
  keys = draw.normal(size=(N, D)).astype(np.float32)
  keys[40:44] = keys[7]
  tokens = draw.integers(0, 11, N)
  return keys, tokens, {lists: write_store(folder / f"{lists}", keys, tokens, lists) for lists in (None, 7)}


def neighbours(keys, query, k, without=None):
  """(distances, numbers) of the nearest keys, as float16 has them, one by one."""
  distances = ((keys.astype(np.float16).astype(np.float64) - query) ** 2).sum(-1)
  if without is not None:
    distances[without] = np.inf
  order = np.argsort(distances, kind="stable")[:k]
  return distances[order], order


@pytest.mark.parametrize("lists", [None, 7])
def test_the_nearest_keys(made, lists):
  keys, tokens, stores = made
  store = stores[lists]
  assert len(store) == N and (store.lists == 1 if lists is None else 1 < store.lists <= 7)
  queries = np.concatenate([keys[5:9], np.random.default_rng(1).normal(size=(20, D))])
  for probes in (None, store.lists, 99):
    distances, found = store.search(queries, 9, probes)
    for query, row, some in zip(queries, distances, found):
      expected, order = neighbours(keys, query, 9)
      np.testing.assert_allclose(row, expected, atol=1e-4)
      if len(set(expected)) == 9 and lists is None:
        np.testing.assert_array_equal(some, tokens[order])


def test_some_lists_have_most_of_the_nearest(made):
  keys, _, stores = made
  queries = np.random.default_rng(2).normal(size=(30, D))
  exact, _ = stores[7].search(queries, 5)
  near, _ = stores[7].search(queries, 5, probes=3)
  assert (np.diff(near, axis=1) >= 0).all() and (near >= exact - 1e-5).all()
  assert np.isclose(near, exact, atol=1e-5).mean() > 0.6
  single, _ = stores[7].search(queries[:1], 5, probes=3)
  np.testing.assert_allclose(single[0], near[0], atol=1e-4)


@pytest.mark.parametrize("lists, probes", [(None, None), (7, None), (7, 2)])
def test_a_token_s_own_key_is_left_out(made, lists, probes):
  """Only its own: an equal key of another place stays."""
  keys, _, stores = made
  own = np.array([7, 41, 3, -1])
  distances, _ = stores[lists].search(keys[[7, 41, 3, 3]].astype(np.float16), 4, probes, own)
  np.testing.assert_allclose(distances[:2], 0, atol=1e-5)  # Of five equal ones, four are left.
  assert distances[2, 0] > 1e-3 and distances[3, 0] < 1e-5
  expected, _ = neighbours(keys, keys[3].astype(np.float16), 2, without=3)
  assert np.allclose(distances[2, :2], expected, atol=1e-3) or probes == 2


def test_fewer_keys_than_are_asked_for(tmp_path):
  store = write_store(tmp_path / "few", np.eye(3, dtype=np.float32), np.array([4, 5, 6]))
  distances, tokens = store.search(np.zeros((2, 3)), 5)
  np.testing.assert_allclose(distances, [[1, 1, 1, np.inf, np.inf]] * 2)
  assert tokens[:, :3].tolist() == [[4, 5, 6]] * 2
  alone = write_store(tmp_path / "one", np.ones((1, 3), np.float32), np.array([4]))
  assert np.isinf(alone.search(np.ones((1, 3)), 2, own=np.array([0]))[0]).all()


def reference(logits, distances, tokens, weight, temperature):
  """The mixture's probabilities, a token at a time, in float64."""
  p = np.exp(logits.astype(np.float64) - logits.max())
  p /= p.sum()
  closeness = np.exp(-distances.astype(np.float64) / temperature)
  if closeness.sum() == 0:
    return p
  of_neighbours = np.zeros_like(p)
  for share, token in zip(closeness / closeness.sum(), tokens):
    of_neighbours[token] += share
  return (1 - weight) * p + weight * of_neighbours


def test_the_mixture_is_the_paper_s():
  draw = np.random.default_rng(3)
  logits, tokens = draw.normal(size=(5, 11)).astype(np.float32), draw.integers(0, 11, (5, 8)).astype(np.int32)
  distances = np.sort(draw.uniform(0, 9, (5, 8)), 1).astype(np.float32)
  distances[1, 3:], distances[4] = np.inf, np.inf
  found = np.asarray(nearest_neighbours.mixed(logits, distances, tokens, 0.3, 2.0))
  np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
  targets = draw.integers(0, 11, 5)
  shares = datastore.target_probabilities(distances, tokens, targets, 2.0)
  for row in range(5):
    expected = reference(logits[row], distances[row], tokens[row], 0.3, 2.0)
    np.testing.assert_allclose(np.exp(found[row]), expected, rtol=1e-4)
    alone = reference(logits[row], distances[row], tokens[row], 1.0, 2.0)[targets[row]]
    assert np.isclose(shares[row], 0 if row == 4 else alone, rtol=1e-5)


# Damage, and stores of another model.


@pytest.mark.parametrize("damage, words", [
    (lambda path: (path / "note.json").unlink(), "is no datastore .note.json is missing"),
    (lambda path: (path / "note.json").write_text("{"), "is no datastore"),
    (lambda path: (path / "note.json").write_text('{"version": 9}'), "damaged .version 9, and this gpt4x reads 1"),
    (lambda path: (path / "note.json").write_text('{"version": 1}'), "is damaged"),
    (lambda path: (path / "tokens.bin").unlink(), "damaged .tokens.bin: No such file"),
    (lambda path: os.truncate(path / "keys.bin", 100), "keys.bin: it has 100 bytes of 1,080"),
    (lambda path: (path / "keys.bin").write_bytes(b"x" * 1080), "keys.bin: it has been altered"),
    (lambda path: (path / "places.bin").write_bytes(b"\1" * 720), "places.bin: it has been altered"),
])
def test_a_damaged_store_is_refused(made, tmp_path, damage, words):
  shutil.copytree(made[2][None].path, tmp_path / "store")
  damage(tmp_path / "store")
  with pytest.raises(UserError, match=words) as error:
    Datastore(str(tmp_path / "store"))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, words", [
    ({}, ""), ({"checksum": "fedcba"}, "other parameters .step 3, abcdef01., and runs/a has step 3, fedcba:"),
    ({"step": 4}, "another step .step 3"), ({"layer": "layers.1.mlp"}, "the layer final, and"),
    ({"vocabulary": {"class": "ByteVocabulary", "extra_ids": 5}}, "another vocabulary .ByteVocabulary"),
    ({"texts": {}}, "")])
def test_a_store_of_another_model_is_refused(made, change, words):
  source = dataclasses.replace(SOURCE, **change)
  if not words:
    made[2][7].check(source, "runs/a")
    return
  with pytest.raises(UserError, match=f"was made of {words}"):
    made[2][7].check(source, "runs/a")


def test_what_is_not_finished_leaves_nothing(tmp_path):
  """Neither an error, nor a process that was killed."""
  with pytest.raises(UserError, match="beyond float16"):
    write_store(tmp_path / "store", np.full((3, 2), 1e6, np.float32), np.zeros(3, int))
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match="would be empty"):
    write_store(tmp_path / "store", np.zeros((0, 2), np.float32), np.zeros(0, int))
  assert not list(tmp_path.iterdir())
  left = tmp_path / "store.0123abcd.building"
  left.mkdir()
  (left / "keys.bin.unsorted").write_bytes(b"half")
  world = prepared._this_process() | {"pid": 2**22 + 1}  # More than there can be.
  (left / "owner.json").write_text(json.dumps(world))
  write_store(tmp_path / "store", np.eye(2, dtype=np.float32), np.zeros(2, int))
  assert [path.name for path in tmp_path.iterdir()] == ["store"]
  assert {path.name for path in (tmp_path / "store").iterdir()} == {"note.json", *datastore._FILES}
  with pytest.raises(UserError, match="is there already: choose another --output"):
    write_store(tmp_path / "store", np.eye(2, dtype=np.float32), np.zeros(2, int))


def test_without_faiss_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "faiss", None)
  with pytest.raises(UserError, match=r"need the package faiss .*: pip install 'gpt4x\[knowledge\]'"):
    datastore.faiss()


@pytest.mark.parametrize("settings", [{"weight": 1.5}, {"temperature": 0.0}, {"k": 0}, {"probes": -1}])
def test_settings_that_cannot_be(settings):
  with pytest.raises(UserError, match=f"NearestNeighbours.{next(iter(settings))} = .* must be"):
    NearestNeighbours(**settings)


def test_what_is_given_counts_before_what_was_tuned():
  tuned = {"weight": 0.2, "temperature": 3.0, "k": 8, "probes": 2, "exact": True, "split": "validation"}
  found = NearestNeighbours(weight=0.5).completed(tuned)
  assert found == NearestNeighbours(0.5, 3.0, 8, 2, True)
  assert NearestNeighbours().completed({}) == NearestNeighbours(None, None, 256, 32, False)


# With a model.

TEXTS = ["memory attends", "attends to its past", "past segments", "its memory", "to attend"]


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  """(directory of a run, its experiment, parameters, its store, which has every other list of settings)."""
  folder = tmp_path_factory.mktemp("run")
  train = text_run.write_texts(folder / "train.jsonl", TEXTS)
  held = text_run.write_texts(folder / "held.jsonl", ["memory attends to its past"])
  text_run.write(folder / "run", LocalText__files=str(train), LocalText__validation_files=str(held))
  experiment = reading.saved_experiment(str(folder / "run"))
  mesh = Partitioner(data=1, num_devices=1)
  step, params = experiment.restore_params(str(folder / "run"), mesh)
  layer = nearest_neighbours.last_mlp_input(experiment.language_model)
  with prepared.new_folder(folder / "store") as made:
    count = nearest_neighbours.build(experiment, params, mesh, str(folder / "run"), Writer(made, 8), layer, step,
                                     "train")
  assert count == sum(len(text) + 1 for text in TEXTS)
  yield folder / "run", experiment, params, folder / "store"


def test_the_keys_of_a_split(run):
  """Each is the state of its token in its document, whatever was beside it; each token has its place."""
  directory, experiment, params, path = run
  store = Datastore(str(path))
  assert store.source.layer == "layers.1.mlp_input" and store.source.step == 0
  (fingerprint, (name, first, count)), = store.source.texts.items()
  tokens, = experiment.data.stores("train")
  assert (fingerprint, name, first, count) == (tokens.fingerprint, "local_text_bytes/train", 0, tokens.num_tokens)
  order = np.argsort(store._places)
  np.testing.assert_array_equal(store._places[order], np.arange(count))
  np.testing.assert_array_equal(store._tokens[order], tokens._tokens)
  model = experiment.language_model
  for number in (0, 3):
    document = tokens[number]
    _, expected = text_run.whole(model, params, [0, *document[:-1]], "layers.1.mlp_input")
    np.testing.assert_allclose(store._keys[order][tokens.place(number)], expected, atol=0.02, rtol=0.002)


def test_decoding_draws_from_the_mixture(run):
  """A token's log-probability is the reference's, by the state and the logits of a whole forward pass."""
  directory, experiment, params, path = run
  settings = NearestNeighbours(weight=0.4, temperature=2.0, k=7)
  mixture = Neighbours.of(str(path), experiment, str(directory), None, settings)
  model, prompt = experiment.language_model, [112, 104, 112, 114]

  def decoded(model):
    engine = Engine(model, window=32, eos_id=None, sampling=Sampling(temperature=0.7), chunk_length=3)
    pieces = list(engine(params, [prompt, prompt[:2]], 6, seed=5))
    return (np.concatenate(parts, 1) for parts in zip(*pieces))

  tokens, log_probs = decoded(mixture.model(model))
  layer = mixture.store.source.layer
  for given, drawn, found in zip((prompt, prompt[:2]), tokens, log_probs):
    logits, states = text_run.whole(model, params, [0, *given, *drawn], layer)
    distances, nearest = mixture.store.search(states, 7)
    for place, (token, log_prob) in enumerate(zip(drawn, found), len(given)):
      expected = reference(logits[place], distances[place], nearest[place], 0.4, 2.0)
      np.testing.assert_allclose(log_prob, np.log(expected[token]), rtol=2e-3, atol=2e-3)

  none = Neighbours.of(str(path), experiment, str(directory), None, dataclasses.replace(settings, weight=0.0))
  assert none.model(model) is model


def test_a_part_of_a_split_and_another_layer(run, tmp_path):
  directory, experiment, params, _ = run
  mesh = Partitioner(data=1, num_devices=1)
  with prepared.new_folder(tmp_path / "store") as folder:
    count = nearest_neighbours.build(experiment, params, mesh, str(directory), Writer(folder, 8), "final", 0, "train",
                                     max_tokens=20)
  store = Datastore(str(tmp_path / "store"))
  assert count == len(store) == 20 == len(set(store._places.tolist()))
  with pytest.raises(UserError, match="the layer final, and NearestNeighbours.layer = 'layers.1.output'"):
    Neighbours.of(str(tmp_path / "store"), experiment, str(directory), None, NearestNeighbours(layer="layers.1.output"))
  with pytest.raises(UserError, match="nothing was tuned for the datastore"):
    Neighbours.of(str(tmp_path / "store"), experiment, str(directory), None)


def test_other_weights_of_the_same_step(run, tmp_path):
  directory, experiment, _, path = run
  text_run.write(tmp_path / "run", scale=1.01)
  with pytest.raises(UserError, match="was made of other parameters .step 0, .* has step 0,"):
    Neighbours.of(str(path), experiment, str(tmp_path / "run"), None, NearestNeighbours(0.5, 1.0))


def test_data_that_is_no_stream(run):
  experiment = run[1]
  examples = dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, feature_converter="lm"))
  with pytest.raises(UserError, match="feature_converter = 'lm' has no stream of text"):
    nearest_neighbours.check(examples)
