"""Fine-tuning a task with inputs, targets and seqio metrics: through the loop, and against sums written out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data import vocabularies
from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
from gpt4x.evaluation.task_metrics import TaskMetrics
from gpt4x.experiment import Experiment
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.training import optimizers
from gpt4x.training.config import TrainConfig
from gpt4x.training.loop import train

EXAMPLES = [("ab", "ba"), ("xyz", "zyx"), ("m", "m"), ("qr", "rq"), ("abc", "cba")]
SEEN = {}  # What the metrics were given.


def predictions(targets, predictions):
  SEEN["targets"], SEEN["predictions"] = targets, predictions
  return {"exact": np.mean([a == b for a, b in zip(targets, predictions)])}


def scores(targets, scores):
  SEEN["scores"] = scores
  return {"mean_score": np.mean(scores)}


def add_task(name, vocabulary):
  def dataset(split, shuffle_files, seed=None):
    inputs, targets = zip(*EXAMPLES * (100 if split == "train" else 1))
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})

  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
      output_features={"inputs": seqio.Feature(vocabulary, add_eos=False), "targets": seqio.Feature(vocabulary)},
      metric_fns=[predictions, scores])


@pytest.fixture(scope="module", name="task")
def _task():
  add_task("reverse_for_test", seqio.ByteVocabulary())
  yield "reverse_for_test"
  seqio.TaskRegistry.remove("reverse_for_test")


def experiment(task, converter="prefix_lm", **options):
  config = TransformerConfig(vocab_size=264, num_layers=2, embed_dim=32, num_heads=2, mlp_dim=64, memory_length=4,
                             norm_position="pre", tie_embeddings=False)
  return Experiment(LanguageModel(config), DatasetConfig(
      task, {"inputs": 6, "targets": 6}, batch_size=4, feature_converter=converter, **options))


@pytest.mark.parametrize("converter", ["prefix_lm", "causal_lm"])
def test_scores_and_predictions_are_the_model_s_own(task, converter):
  trial = experiment(task, converter)
  params = trial.model.init(jax.random.key(1))
  metrics = TaskMetrics(trial, "validation")(params)
  assert metrics.keys() == {f"{task}/exact", f"{task}/mean_score"}
  assert SEEN["targets"] == [target for _, target in EXAMPLES]  # In order, the filled-up last batch cut off.
  for (source, target), score in zip(EXAMPLES, SEEN["scores"]):
    tokens = [byte + 3 for byte in (source + target).encode()] + [1]
    inputs = jnp.array([[0] + tokens[:-1]])
    prefix = (jnp.arange(len(tokens)) <= len(source)).astype(jnp.int32)[None]
    logits, _ = trial.model.logits(params, inputs, trial.model.initial_memory(1, 0),
                                   prefix=prefix if converter == "prefix_lm" else None)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0, np.arange(len(tokens)), tokens]
    np.testing.assert_allclose(score, log_probs[len(source):].sum(), rtol=1e-4)


def test_metrics_are_of_the_run_s_own_vocabulary(tmp_path, monkeypatch):
  """The file behind the task's name is another now; seqio's registries are as before."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  shared = vocabularies.model_path("toy")
  train_pieces = lambda text: vocabularies.train_sentencepiece([text * 40], 264, shared)
  add_task("reverse_of_a_run", vocabularies.LosslessSentencePieceVocabulary("toy"))
  names = set(seqio.TaskRegistry.names())
  try:
    trial = experiment("reverse_of_a_run")
    params = trial.model.init(jax.random.key(1))
    train_pieces("ab ba ")
    vocabularies.save(vocabularies.LosslessSentencePieceVocabulary(shared), tmp_path / "run")
    expected = TaskMetrics(trial, "validation")(params)
    train_pieces("yx zz ")
    assert TaskMetrics(experiment("reverse_of_a_run"), "validation")(params) != expected
    found = TaskMetrics(experiment("reverse_of_a_run").of_run(tmp_path / "run"), "validation")(params)
    assert found == expected and found.keys() == {"reverse_of_a_run/exact", "reverse_of_a_run/mean_score"}
    assert SEEN["targets"] == [target for _, target in EXAMPLES] and names == set(seqio.TaskRegistry.names())
  finally:
    seqio.TaskRegistry.remove("reverse_of_a_run")


@pytest.mark.parametrize("pack", [False, True])
def test_the_loop_learns_the_task_and_reports_its_metrics(task, tmp_path, pack):
  config = TrainConfig(experiment(task, pack=pack), optimizers.adamw(1e-2), total_steps=100,
                       partitioner=Partitioner(data=1, num_devices=1), eval_period=100, log_period=100)
  status = train(str(tmp_path / "run"), config)
  assert status == 0
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  before, after = [line for line in lines if line["split"] == "validation"]
  assert after["loss"] < 0.3 * before["loss"]
  assert after[f"{task}/exact"] >= 0.8 and after[f"{task}/mean_score"] > before[f"{task}/mean_score"]


# What goes wrong in a user's own code is one line, wherever it goes wrong.


def fails(match, metrics=(predictions,), preprocessors=(), postprocess=None, source=None):
  def dataset(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["ab", "cd"], "targets": ["ba", "dc"]})

  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=False)
  seqio.TaskRegistry.add(
      "broken_for_test", source=source or seqio.FunctionDataSource(dataset, splits=("validation",)),
      preprocessors=[*preprocessors, seqio.preprocessors.tokenize], metric_fns=list(metrics),
      postprocess_fn=postprocess, output_features={"inputs": feature, "targets": feature})
  try:
    trial = experiment("broken_for_test")
    with pytest.raises(UserError, match=f"^task broken_for_test, split validation: {match}") as error:
      TaskMetrics(trial, "validation")(trial.model.init(jax.random.key(1)))
    assert "\n" not in str(error.value)
  finally:
    seqio.TaskRegistry.remove("broken_for_test")


def wrong_metric(targets, predictions):
  return {"x": targets[0].nothing}


def metric_without_numbers(targets, predictions):
  raise ValueError("no numbers\n  in here")


def metric_that_knows(targets, predictions):
  raise UserError("give the metric a file")


def test_errors_of_metrics():
  fails("give the metric a file$", [metric_that_knows])
  fails(r"AttributeError 'str' object has no attribute 'nothing' at .*test_task_metrics.py:\d+", [wrong_metric])
  fails("in here", [metric_without_numbers])


def test_errors_of_postprocessors():
  fails(r"KeyError 'answers' at .*test_task_metrics.py:\d+",
        postprocess=lambda text, example=None, is_target=False: example["answers"])


def test_errors_of_preprocessors_and_their_file(tmp_path):
  (tmp_path / "pairs.tsv").write_text("ab\tba\nno tab here\n")

  def columns(dataset):
    return dataset.map(lambda line: dict(zip(("inputs", "targets"), tf.io.decode_csv(line, ["", ""], "\t"))))

  fails(f"Expect 2 fields but have 1 in record.* [(]in {tmp_path}/pairs.tsv[)]", preprocessors=[columns],
        source=seqio.TextLineDataSource({"validation": f"{tmp_path}/pairs.tsv"}))
