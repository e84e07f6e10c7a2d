"""What seqio tasks yield: ordered data sets of TFDS may be shuffled, and errors say where."""

import threading

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from gpt4x.data import task_examples, vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.task_examples import examples
from gpt4x.errors import UserError

FEATURES = {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)}
TEXTS = [f"text {i}" for i in range(30)]


class ToyOrdered(tfds.core.GeneratorBasedBuilder):
  """A user's data set that keeps its order."""
  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # As of `PythonStdlib`.

  def _info(self):
    return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict({"targets": tfds.features.Text()}), disable_shuffling=True)

  def _split_generators(self, dl_manager):
    return {"train": enumerate({"targets": text} for text in TEXTS)}

  def _generate_examples(self, examples):
    return examples


@pytest.fixture(scope="module", name="names", autouse=True)
def _names(tmp_path_factory):
  """A task over ordered data of TFDS, and a mixture of it."""
  folder = tmp_path_factory.mktemp("tfds")
  ToyOrdered(data_dir=folder).download_and_prepare()
  seqio.TaskRegistry.add("toy_ordered", source=seqio.TfdsDataSource("toy_ordered:1.0.0", str(folder), read_only=True),
                         preprocessors=[seqio.preprocessors.tokenize], output_features=FEATURES)
  seqio.MixtureRegistry.add("toy_ordered_mix", ["toy_ordered"], default_rate=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    yield "toy_ordered", "toy_ordered_mix"
  seqio.MixtureRegistry.remove("toy_ordered_mix")
  seqio.TaskRegistry.remove("toy_ordered")


def texts(name, **options):
  options = {"sequence_length": None, "num_epochs": 1} | options
  return [FEATURES["targets"].vocabulary.decode(example["targets"].tolist())
          for example in examples(seqio.get_mixture_or_task(name), "train", **options)]


@pytest.mark.parametrize("name", ["toy_ordered", "toy_ordered_mix"])
def test_ordered_data_is_shuffled_here(name):
  with pytest.raises(ValueError, match="disable_shuffling"):  # Or this is not what it is to mend.
    seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split="train", shuffle=True, seed=1)
  assert texts(name, shuffle=False) == TEXTS
  orders = [texts(name, shuffle=True, seed=seed) for seed in (1, 1, 2)]
  assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2]) == sorted(TEXTS)


@pytest.mark.parametrize("name", ["toy_ordered", "toy_ordered_mix"])
def test_ordered_data_trains_and_makes_a_vocabulary(name, tmp_path):
  batches = Dataset(DatasetConfig(name, {"targets": 8}, 30, "lm")).train()
  state, batch = batches.get_state(), next(batches)
  assert len({row.tobytes() for row in batch["decoder_target_tokens"]}) > 10  # A mixture mixes epochs.
  batches.set_state(state)
  assert (next(batches)["decoder_target_tokens"] == batch["decoder_target_tokens"]).all()
  assert vocabularies.train_from_task(name, 276, tmp_path / "a.model").exists()


def test_a_large_ordered_data_set_waits_in_a_small_buffer(monkeypatch):
  monkeypatch.setattr(task_examples, "SHUFFLE_BUFFER", 2)
  assert sorted(texts("toy_ordered", shuffle=True, seed=1)) == sorted(TEXTS)


def columns(dataset):
  """As users read tables: a line without a tab is an error of TensorFlow."""
  return dataset.map(lambda line: {"targets": tf.strings.split(line, "\t")[1]})


def test_an_error_says_in_which_file_and_behind_what(tmp_path):
  (tmp_path / "a.tsv").write_text("1\tone\n2\ttwo\n3 three\n")
  task = seqio.Task("toy_table", seqio.TextLineDataSource({"train": f"{tmp_path}/*.tsv"}), FEATURES,
                    [columns, seqio.preprocessors.tokenize])
  with pytest.raises(UserError) as error:
    list(examples(task, "train", shuffle=False))
  assert str(error.value).startswith("task toy_table, split train: ")
  assert str(error.value).endswith(f" (behind 2 examples, in {tmp_path}/a.tsv)")
  (tmp_path / "b.tsv").write_text("4\tfour\n")
  seqio.utils._list_files_for_glob.cache_clear()
  with pytest.raises(UserError, match=f"in {tmp_path}/a.tsv or one of 1 more files"):
    list(examples(task, "train", shuffle=False))


def test_data_sets_are_built_one_after_another():
  """The seeds of preprocessors come from one counter of the process, which another thread would draw from, too."""
  free = []

  def look(dataset):
    thread = threading.Thread(target=lambda: free.append(task_examples.BUILDING.acquire(blocking=False)))
    thread.start()
    thread.join()
    return dataset

  seqio.TaskRegistry.add("toy_looks", source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors({"targets": "a"}), splits=["train"]),
      preprocessors=[look, seqio.preprocessors.tokenize], output_features=FEATURES)
  try:
    assert texts("toy_looks", shuffle=False) == ["a"]
  finally:
    seqio.TaskRegistry.remove("toy_looks")
  assert free == [False], "another thread could build while this one did"
