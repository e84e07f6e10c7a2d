import contextlib
import functools
import itertools
import json
import threading

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data import task_examples, tokenization
from gpt4x.data.dataset import Dataset, DatasetConfig, host_rows
from gpt4x.data.prefetch import prefetch
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401  Registers the shipped ones.

VOCABULARY = seqio.PassThroughVocabulary(100, eos_id=1)
SPLITS = {"train": range(10, 21), "validation": range(30, 34)}


def register(name, features=("targets",), splits=SPLITS, vocabulary=VOCABULARY, length=4):
  """A task whose example n has `length` times n as each feature, and an end after the targets."""
  def dataset(split, shuffle_files, seed=None):
    del shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices(tf.constant(list(splits[split]), tf.int32)).map(
        lambda n: {feature: tf.repeat(n, length) for feature in features})

  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(dataset, splits=list(splits)),
      preprocessors=[seqio.preprocessors.append_eos],
      output_features={feature: seqio.Feature(vocabulary, add_eos=feature == "targets") for feature in features})


@pytest.fixture(autouse=True, scope="module")
def toy_tasks(tmp_path_factory):
  register("toy")
  register("toy_other", splits={"train": range(50, 60)})
  register("toy_pairs", features=("inputs", "targets"))
  register("toy_tiny", splits={"train": range(10, 12)})
  register("toy_empty", splits={"train": ()})
  register("toy_bytes", vocabulary=seqio.ByteVocabulary())
  mixtures = {"toy_mix": [("toy", 3), ("toy_other", 1)], "toy_half": [("toy", 1), ("toy_other", 0)],
              "toy_mismatch": [("toy", 1), ("toy_bytes", 1)],
              "toy_counted": [("toy", 1), ("toy_other", seqio.mixing_rate_num_examples)]}
  for name, rates in mixtures.items():
    seqio.MixtureRegistry.add(name, rates)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    yield
  for registry, names in (seqio.MixtureRegistry, mixtures), (seqio.TaskRegistry, list(seqio.TaskRegistry.names())):
    for name in names:
      if name.startswith("toy"):
        registry.remove(name)


def config(name="toy", batch_size=4, lengths=None, **kwargs):
  if lengths is None:
    lengths = {"inputs": 4, "targets": 6} if kwargs.get("feature_converter") == "prefix_lm" else {"targets": 6}
  return DatasetConfig(name, lengths, batch_size, **kwargs)


CONFIGS = {
    "stream": functools.partial(config),
    "stream_mixture": functools.partial(config, "toy_mix"),
    "lm": functools.partial(config, feature_converter="lm"),
    "lm_mixture": functools.partial(config, "toy_mix", feature_converter="lm"),
    "packed": functools.partial(config, feature_converter="lm", pack=True, lengths={"targets": 11}),
    "prefix_lm": functools.partial(config, "toy_pairs", feature_converter="prefix_lm"),
    "packed_prefix_lm": functools.partial(
        config, "toy_pairs", feature_converter="prefix_lm", pack=True, lengths={"inputs": 9, "targets": 10}),
}


def each_config(*names):
  names = names or CONFIGS
  return pytest.mark.parametrize("make", [CONFIGS[name] for name in names], ids=names)


def assert_equal(left, right):
  assert left.keys() == right.keys()
  for name in left:
    np.testing.assert_array_equal(left[name], right[name], name)


def contents(batch):
  """The first token of each example in a batch."""
  starts = (batch["decoder_input_tokens"] == 0) & (batch["decoder_segment_ids"] > 0)
  return batch["decoder_target_tokens"][starts].tolist()


@each_config()
def test_batches_have_one_form(make):
  for batch in (next(Dataset(make()).train()), next(Dataset(make()).evaluation("validation"))):
    names = ["decoder_input_tokens", "decoder_loss_weights", "decoder_segment_ids", "decoder_target_tokens"]
    if make().feature_converter == "prefix_lm":
      names.insert(0, "decoder_causal_attention")
    assert sorted(batch) == names
    assert {value.shape for value in batch.values()} == {(4, make().segment_length)}
    assert {name for name in batch if batch[name].dtype != np.int32} == {"decoder_loss_weights"}
    assert batch["decoder_loss_weights"].dtype == np.float32


@each_config("stream", "stream_mixture", "lm", "lm_mixture", "packed", "prefix_lm")
def test_restored_iterator_continues_identically(make):
  whole = Dataset(make()).train()
  for _ in range(4):  # Into the second epoch.
    next(whole)
  restored = Dataset(make()).train()
  restored.set_state(json.loads(json.dumps(whole.get_state())))
  assert restored.get_state() == whole.get_state()
  for _ in range(2):
    assert_equal(next(restored), next(whole))


@each_config("stream_mixture", "lm_mixture", "prefix_lm")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_of_hosts_are_one_hosts_batches(make, split):
  def iterate(rows):
    if split == "train":
      return itertools.islice(Dataset(make()).train(rows=rows), 2)
    return Dataset(make()).evaluation(split, rows=rows)

  hosts = [iterate(host_rows(4, host, 2)) for host in range(2)]
  for batch, shares in zip(iterate(None), zip(*hosts, strict=True), strict=True):
    assert_equal({name: np.concatenate([share[name] for share in shares]) for name in batch}, batch)


@each_config()
def test_evaluation_has_each_example_once(make):
  batches = list(Dataset(make()).evaluation("validation"))
  assert sorted(sum(map(contents, batches), [])) == list(SPLITS["validation"])
  # Four times each, and the end; of pairs the inputs go before, and have no weight.
  assert sum(batch["decoder_loss_weights"].sum() for batch in batches) == 4 * 5
  for batch in batches:
    padding = batch["decoder_segment_ids"] == 0
    assert not any(batch[name][padding].any() for name in ("decoder_target_tokens", "decoder_loss_weights"))


@each_config("stream", "lm", "prefix_lm")
def test_last_batch_of_evaluation_is_padded(make):
  batches = list(Dataset(make(batch_size=3)).evaluation("validation"))
  assert sorted(sum(map(contents, batches), [])) == list(SPLITS["validation"])
  assert {batch["decoder_target_tokens"].shape[0] for batch in batches} == {3}


@each_config("lm", "prefix_lm")
def test_examples_are_reshuffled_each_epoch_and_none_is_dropped(make):
  size = len(SPLITS["train"])
  orders = []
  for seed in (0, 1):
    examples = sum(map(contents, itertools.islice(Dataset(make(seed=seed)).train(), 6)), [])
    orders += [tuple(examples[:size]), tuple(examples[size:2 * size])]  # Two epochs.
  assert all(sorted(epoch) == list(SPLITS["train"]) for epoch in orders)
  assert len(set(orders)) == 4


def test_fewer_examples_than_rows():
  batch = next(Dataset(config("toy_tiny", feature_converter="lm", batch_size=5)).train())
  assert sorted(contents(batch))[:2] == [10, 10] and len(contents(batch)) == 5


def test_lm_rows():
  batch = next(Dataset(config(feature_converter="lm")).evaluation("validation"))
  assert {name: value[0].tolist() for name, value in batch.items()} == {
      "decoder_target_tokens": [30, 30, 30, 30, 1, 0],
      "decoder_input_tokens": [0, 30, 30, 30, 30, 1],
      "decoder_segment_ids": [1, 1, 1, 1, 1, 0],
      "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
  }


def test_prefix_lm_rows():
  batch = next(Dataset(CONFIGS["prefix_lm"]()).evaluation("validation"))
  assert {name: value[0].tolist() for name, value in batch.items()} == {
      "decoder_target_tokens": [30] * 8 + [1, 0],
      "decoder_input_tokens": [0] + [30] * 8 + [1],
      "decoder_segment_ids": [1] * 9 + [0],
      "decoder_loss_weights": [0] * 4 + [1] * 5 + [0],
      "decoder_causal_attention": [1] * 5 + [0] * 5,
  }


def test_packed_rows():
  batch = next(Dataset(CONFIGS["packed"]()).evaluation("validation"))
  assert batch["decoder_target_tokens"][0].tolist() == [30, 30, 30, 30, 1, 31, 31, 31, 31, 1, 0]
  assert batch["decoder_segment_ids"][0].tolist() == [1] * 5 + [2] * 5 + [0]


@pytest.mark.parametrize("converter", ["stream", "lm"])
def test_mixture_by_rate(converter):
  iterator = Dataset(config("toy_mix", feature_converter=converter, batch_size=16)).train()
  examples = sum((contents(batch) for batch in itertools.islice(iterator, 20)), [])
  assert abs(np.mean(np.array(examples) >= 50) - 1 / 4) < 0.1


def test_task_of_rate_zero_is_left_out():
  batches = itertools.islice(Dataset(config("toy_half")).train(), 10)
  assert max(batch["decoder_target_tokens"].max() for batch in batches) <= 20


def test_evaluation_of_a_mixture_takes_the_tasks_that_have_the_split():
  assert len(list(Dataset(config("toy_mix")).evaluation("validation"))) == 1
  # toy: 11 examples; toy_other: 10.
  batches = list(Dataset(config("toy_mix")).evaluation("train"))
  assert sum(batch["decoder_loss_weights"].sum() for batch in batches) == 21 * 5


def test_config_by_gin():
  gin.parse_config("""
      DatasetConfig.mixture_or_task_name = "toy"
      DatasetConfig.task_feature_lengths = {"targets": 32}
      DatasetConfig.batch_size = 8
      """)
  made = DatasetConfig()
  assert (made.segment_length, made.batch_size, made.carries_memory) == (32, 8, True)
  assert not config(feature_converter="lm").carries_memory
  assert CONFIGS["prefix_lm"]().segment_length == 10


def test_vocabulary():
  assert Dataset(config("toy_mix")).vocabulary == VOCABULARY


def test_shipped_tasks_are_known():
  assert isinstance(Dataset(config("stdlib_bytes")).vocabulary, seqio.ByteVocabulary)


def test_host_rows():
  assert [host_rows(6, host, 3) for host in range(3)] == [range(2), range(2, 4), range(4, 6)]


def wrong(match, make, *args, **kwargs):
  with pytest.raises(UserError, match=match) as error:
    made = make(*args, **kwargs)
    if hasattr(made, "__next__"):
      next(made)
  lines = str(error.value).splitlines()
  assert len(lines) == 1 or make is config  # Gin says below which configurable it was.


def test_errors_say_what_to_do():
  train = lambda *args, **kwargs: Dataset(config(*args, **kwargs)).train()
  wrong("unknown task or mixture 'stdlib_byte': did you mean stdlib_bytes", train, "stdlib_byte")
  wrong("task toy has no split 'test': use one of train, validation", Dataset(config()).evaluation, "test")
  wrong("task toy_pairs has inputs.*set DatasetConfig.feature_converter = 'causal_lm' or 'prefix_lm'", train,
        "toy_pairs")
  wrong("task toy_pairs has inputs", train, "toy_pairs", feature_converter="lm")
  wrong("task toy has no feature inputs", train, "toy", feature_converter="prefix_lm")
  wrong("task toy_empty, split train: the corpus is empty", train, "toy_empty")
  wrong("task toy_empty, split train: the corpus is empty", train, "toy_empty", feature_converter="lm")
  wrong("the corpus is empty", Dataset(config("toy_empty", feature_converter="lm")).evaluation, "train")
  wrong("the tasks of mixture toy_mismatch differ in their vocabulary", train, "toy_mismatch")
  wrong("the rate of task toy_other cannot be computed", train, "toy_counted")
  wrong("batch_size = 6 does not divide over 4 hosts", host_rows, 6, 0, 4)
  wrong("feature_converter = 'lmm' is unknown: use one of stream, lm, causal_lm, prefix_lm", config,
        feature_converter="lmm")
  wrong("takes a positive length for inputs and targets", config, feature_converter="prefix_lm", lengths={"targets": 3})
  wrong("takes a positive length for targets", config, lengths={"targets": 0})
  wrong("batch_size = 0", config, batch_size=0)
  wrong("pack = True", config, pack=True)


def test_a_split_is_checked_before_anything_is_read(monkeypatch):
  monkeypatch.setattr(tokenization, "open_or_build", lambda *_: pytest.fail("tokenizes"))
  dataset = Dataset(config("toy_other"))
  dataset.check_split("train")
  wrong("task toy_other has no split 'validation': use one of train, or to train without evaluation, EVAL_PERIOD",
        dataset.check_split, "validation")


CUTS = {  # Four times each number and an end; of 11 examples all are too long, or none.
    "lm": ({"targets": 4}, {"targets": (4, 5)}), "lm_whole": ({"targets": 5}, {}),
    "prefix_lm": ({"inputs": 3, "targets": 2}, {"inputs": (3, 4), "targets": (2, 5)}),
    "prefix_lm_inputs": ({"inputs": 3, "targets": 5}, {"inputs": (3, 4)}),
}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("case", CUTS)
def test_cut_examples_are_counted(case, pack, capfd):
  lengths, expected = CUTS[case]
  converter = "prefix_lm" if "inputs" in lengths else "lm"
  name = "toy_pairs" if converter == "prefix_lm" else "toy"

  def warnings(read, split, count):
    task_examples.say_once.cache_clear()  # As in a new process.
    capfd.readouterr()
    read(Dataset(config(name, lengths=lengths, feature_converter=converter, pack=pack)))
    found = [line for line in capfd.readouterr().err.splitlines() if "cut" in line]
    assert found == [f"gpt4x: warning: {name}/{split}: {count} of {count} examples have more than {limit} tokens of"
                     f" {feature}, at most {longest}, and are cut there: raise TASK_FEATURE_LENGTHS or let the task"
                     " split them" for feature, (limit, longest) in expected.items()]

  for _ in range(2):  # The second start knows from the first.
    warnings(lambda dataset: next(dataset.train()), "train", 11)
  warnings(lambda dataset: list(dataset.evaluation("validation")), "validation", 4)


def test_only_what_is_too_long_counts(capfd):
  lines = tf.ragged.constant([[5] * n for n in (3, 9, 4, 12)], tf.int32)
  source = seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(lines).map(lambda x: {"targets": x}),
      splits=("validation",))
  seqio.TaskRegistry.add("toy_lengths", source=source, preprocessors=[],
                         output_features={"targets": seqio.Feature(VOCABULARY, add_eos=False)})
  batch, = Dataset(config("toy_lengths", lengths={"targets": 4}, feature_converter="lm")).evaluation("validation")
  assert (batch["decoder_target_tokens"] > 0).sum(1).tolist() == [3, 4, 4, 4]
  assert "2 of 4 examples have more than 4 tokens of targets, at most 12" in capfd.readouterr().err


def test_state_of_other_data_is_refused():
  stream, lm = Dataset(config()).train(), Dataset(config(feature_converter="lm")).train()
  wrong("feature_converter 'stream', but this run has 'lm'", lm.set_state, stream.get_state())
  wrong("feature_converter 'lm', but this run has 'stream'", stream.set_state, lm.get_state())
  other = Dataset(config("toy_other", feature_converter="lm")).train()
  wrong("content of the tasks' tokens", other.set_state, lm.get_state())


class Numbers:
  """Counts; the state is how far."""

  def __init__(self, stop=1000, error=StopIteration):
    self.count, self.stop, self.error = 0, stop, error

  def __iter__(self):
    return self

  def __next__(self):
    if self.count == self.stop:
      raise self.error
    self.count += 1
    return self.count

  def get_state(self):
    return {"count": self.count}


def test_prefetch_gives_each_batch_its_state():
  numbers = Numbers()
  with contextlib.closing(prefetch(numbers, size=3)) as batches:
    for expected in range(1, 20):
      assert next(batches) == (expected, {"count": expected})
      assert numbers.count <= expected + 4
  assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_prefetch_ends_with_the_iterator():
  batches = prefetch(Numbers(stop=5))
  assert [batch for batch, _ in batches] == [1, 2, 3, 4, 5]
  assert next(batches, None) is None
  assert list(prefetch(iter([7, 8]))) == [(7, None), (8, None)]


def test_prefetch_raises_where_the_batch_is_awaited():
  batches = prefetch(Numbers(stop=2, error=UserError("disk on fire")))
  assert [next(batches)[0], next(batches)[0]] == [1, 2]
  for _ in range(2):
    with pytest.raises(UserError, match="disk on fire"):
      next(batches)
  batches.close()


def test_prefetch_closed_early():
  batches = prefetch(Numbers(), size=2)
  batches.close()
  assert next(batches, None) is None


def test_prefetched_state_continues_after_the_batch_consumed():
  whole = Dataset(config()).train()
  with contextlib.closing(prefetch(whole, size=4)) as batches:
    for _ in range(3):
      _, state = next(batches)
    after, _ = next(batches)
  restored = Dataset(config()).train()
  restored.set_state(state)
  assert_equal(next(restored), after)
