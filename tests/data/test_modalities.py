"""Batches of a vocabulary with media are those of text, marked and weighed; a vocabulary of text leaves them alone."""

import contextlib
import functools
import itertools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data.dataset import Dataset, DatasetConfig, host_rows
from gpt4x.data.modalities import Modalities
from gpt4x.errors import UserError

SIZE = 60
# Ids below 20 are text, from 20 on pictures, from 40 on sounds, and the last ten structure.
MODALITY = np.array([0] * 20 + [1] * 20 + [2] * 10 + [4] * 10)
WEIGHTS = np.array([1.0, 0.5, 0.25, 1.0, 0.0], np.float32)[MODALITY]


class Media(seqio.PassThroughVocabulary):
  """A vocabulary with the attributes of one that has media."""

  def __init__(self, modality=MODALITY, weights=WEIGHTS):
    super().__init__(SIZE, eos_id=1)
    self.modality, self.loss_weights = modality, weights


TEXT = seqio.PassThroughVocabulary(SIZE, eos_id=1)


@contextlib.contextmanager
def registered(vocabulary, features):
  """The same tasks whichever the vocabulary; example n counts up from n."""
  def source(split, shuffle_files, seed=None):
    del shuffle_files, seed
    starts = range(2, 50, 4) if split == "train" else range(3, 50, 8)
    return tf.data.Dataset.from_tensor_slices(tf.constant(list(starts), tf.int32)).map(
        lambda n: {name: tf.range(n, n + 9 - 4 * i) for i, name in enumerate(features)})

  names = "coloured", "coloured_other"
  for name in names:
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(source, splits=("train", "validation")),
        preprocessors=[seqio.preprocessors.append_eos],
        output_features={name: seqio.Feature(vocabulary, add_eos=name == "targets") for name in features})
  seqio.MixtureRegistry.add("coloured_mix", [("coloured", 3), ("coloured_other", 1)])
  yield
  seqio.MixtureRegistry.remove("coloured_mix")
  for name in names:
    seqio.TaskRegistry.remove(name)


PAIR = {"inputs": 9, "targets": 7}
CONFIGS = {
    "stream": functools.partial(DatasetConfig, "coloured", {"targets": 6}, 4),
    "mixture": functools.partial(DatasetConfig, "coloured_mix", {"targets": 6}, 4),
    "lm": functools.partial(DatasetConfig, "coloured", {"targets": 12}, 4, "lm"),
    "packed": functools.partial(DatasetConfig, "coloured", {"targets": 24}, 4, "lm", pack=True),
    "prefix_lm": functools.partial(DatasetConfig, "coloured", PAIR, 4, "prefix_lm"),
}


@pytest.fixture(autouse=True, scope="module")
def _data_dir(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    yield


def read(name, vocabulary, rows=None, skip=None):
  """Some batches of training and all of evaluation, and the last position."""
  features = ("inputs", "targets") if name == "prefix_lm" else ("targets",)
  with registered(vocabulary, features):
    dataset = Dataset(CONFIGS[name]())
    train = dataset.train(rows=rows)
    if skip:
      train.set_state(json.loads(json.dumps(skip)))
    batches = list(itertools.islice(train, 5)), list(dataset.evaluation("validation", rows))
    return *batches, train.get_state()


@functools.cache
def marked_and_plain(name):
  return read(name, Media()), read(name, TEXT)


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_are_those_of_text_marked_and_weighed(name):
  marked, plain = marked_and_plain(name)
  seen = set()
  for part, other in zip(marked[:2], plain[:2]):
    assert len(part) == len(other) > 0
    for batch, expected in zip(part, other):
      targets = expected["decoder_target_tokens"]
      expected = expected | {
          "decoder_target_modality": MODALITY[targets].astype(np.int32),
          "decoder_loss_weights": expected["decoder_loss_weights"] * WEIGHTS[targets]}
      assert batch.keys() == expected.keys()
      for feature, values in expected.items():
        np.testing.assert_array_equal(batch[feature], values, feature)
        assert batch[feature].dtype == values.dtype
      seen |= set(batch["decoder_target_modality"].ravel().tolist())
  assert seen == {0, 1, 2, 4}, "the test sees every range"


@pytest.mark.parametrize("name", CONFIGS)
def test_text_alone_is_left_as_it_is(name):
  """Without modalities there is no feature; with nothing but text of weight 1, all others are equal bit for bit."""
  _, plain = marked_and_plain(name)
  same = read(name, Media(np.zeros(SIZE, int), np.ones(SIZE)))
  for part, other in zip(same[:2], plain[:2]):
    for batch, expected in zip(part, other):
      assert "decoder_target_modality" not in expected
      assert not batch.pop("decoder_target_modality").any()
      assert {name: values.tobytes() for name, values in batch.items()} == {
          name: values.tobytes() for name, values in expected.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_hosts_and_positions(name):
  (train, evaluation, state), (_, _, plain_state) = marked_and_plain(name)
  assert {key: value for key, value in state.items() if key != "tasks"}.keys() == plain_state.keys() - {"tasks"}
  shares = [read(name, Media(), host_rows(4, host, 2)) for host in range(2)]
  for batch, pieces in zip(train + evaluation, zip(*(share[0] + share[1] for share in shares)), strict=True):
    for feature, values in batch.items():
      np.testing.assert_array_equal(np.concatenate([piece[feature] for piece in pieces]), values, feature)
  again, _, _ = read(name, Media(), skip=state)
  longer, _, _ = read(name, Media(), skip=read(name, Media())[2])
  for one, other in zip(again, longer):
    np.testing.assert_array_equal(one["decoder_target_modality"], other["decoder_target_modality"])
    assert not np.array_equal(one["decoder_target_tokens"], train[0]["decoder_target_tokens"]) or name == "prefix_lm"


@pytest.mark.parametrize("token", [-1, SIZE, 2**31 - 1])
def test_a_token_of_no_modality_is_one_line(token):
  modalities = Modalities(Media(), "coloured")
  assert modalities.of(np.array([[0, SIZE - 1]], np.int32)).tolist() == [[0, 4]]
  with pytest.raises(UserError, match=f"task coloured: token {token} is outside its vocabulary of {SIZE}: check"):
    modalities.of(np.array([[0, token]], np.int32))


def test_weights_may_be_missing():
  vocabulary = Media()
  del vocabulary.loss_weights
  batch = {"decoder_target_tokens": np.array([[0, 30]]), "decoder_loss_weights": np.ones((1, 2), np.float32)}
  found = Modalities(vocabulary, "coloured").mark(batch)
  assert found["decoder_loss_weights"].tolist() == [[1, 1]] and found["decoder_target_modality"].tolist() == [[0, 1]]
