"""Upstream t5x runs our experiments: the same numbers as our own loop, and checkpoints that cross."""

import functools
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.train", reason="upstream t5x is not installed (see `make t5x`)")

from t5x import decoding, utils

from gpt4x import cli
from gpt4x.data.dataset import DatasetConfig
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.interop.t5x.model import TransformerXLModel
from gpt4x.interop.t5x.optimizer import OptaxOptimizer
from gpt4x.interop.t5x.partitioner import MeshPartitioner
from tests.integration import corpus, faults
from tests.interop import reverse_task
from tests.models import tiny
from tests.training.every_optimizer import OPTIMIZERS

ONE_DEVICE = {"Partitioner__data": 1, "Partitioner__num_devices": 1}


def losses(model_dir):
  """{(step, split): loss} in metrics.jsonl, each line there once."""
  lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
  found = {(line["step"], line["split"]): line["loss"] for line in lines}
  assert len(found) == len(lines)
  return found


def assert_same(model_dir, expected, rtol=1e-5):
  found = losses(model_dir)
  assert found.keys() == expected.keys()
  np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=rtol)


@pytest.fixture(scope="module", name="text")
def _text(tmp_path_factory):
  return corpus.write(tmp_path_factory.mktemp("text"))


def run(loop, text, model_dir, **bindings):
  assert cli.main([*corpus.flags(text, model_dir, **{**ONE_DEVICE, **bindings}), f"--loop={loop}"]) == 0
  return losses(model_dir)


@pytest.fixture(scope="module", name="ours")
def _ours(text, tmp_path_factory):
  """Our own loop's losses, dropout and all."""
  return run("gpt4x", text, tmp_path_factory.mktemp("ours"))


@pytest.mark.parametrize("mesh", [
    {}, {"Partitioner__data": 4, "Partitioner__tensor": 2, "Partitioner__num_devices": 8},
    {"Partitioner__data": 2, "Partitioner__fsdp": 2, "Partitioner__tensor": 2, "Partitioner__num_devices": 8}], ids=str)
def test_both_loops_have_the_same_losses(text, ours, tmp_path, mesh):
  run("t5x", text, tmp_path, **mesh)
  assert_same(tmp_path, ours)


def test_microbatches_take_their_rows_of_the_memory(text, tmp_path):
  options = {"train__microbatches": 2, "TRAIN_STEPS": 16}
  ours = run("gpt4x", text, tmp_path / "ours", **options)
  run("t5x", text, tmp_path / "theirs", **options)
  assert_same(tmp_path / "theirs", ours)


def test_a_run_crosses_over_and_back(text, ours, tmp_path):
  run("gpt4x", text, tmp_path, TRAIN_STEPS=16)
  run("t5x", text, tmp_path, TRAIN_STEPS=32)
  assert {path.name for path in tmp_path.glob("checkpoint_*")} == {"checkpoint_16", "checkpoint_24", "checkpoint_32"}
  assert (tmp_path / "checkpoints" / "32").exists()  # What `gpt4x eval` and `generate` read.
  run("t5x", text, tmp_path, TRAIN_STEPS=16)  # Past its end: nothing to do.
  run("gpt4x", text, tmp_path)
  assert_same(tmp_path, ours)


def test_starting_from_another_run_s_parameters(text, tmp_path):
  run("gpt4x", text, tmp_path / "first", TRAIN_STEPS=8)
  second = run("t5x", text, tmp_path / "second", TRAIN_STEPS=8, train__init_from=str(tmp_path / "first"))
  third = run("gpt4x", text, tmp_path / "third", TRAIN_STEPS=8, train__init_from=str(tmp_path / "first"))
  assert second[1, "train"] == pytest.approx(third[1, "train"], rel=1e-5)


def test_killed_at_any_moment(text, tmp_path):
  straight = [*corpus.flags(text, tmp_path / "straight"), "--loop=t5x"]
  arguments = [*corpus.flags(text, tmp_path / "run"), "--loop=t5x"]
  status, stderr = faults.finish(faults.start(faults.STRAIGHT, *straight))
  assert status == 0, stderr
  expected = faults.trail(tmp_path / "straight")
  assert faults.finish(faults.start(faults.FAULTY, "SIGKILL", 3, *arguments))[0] == -9  # Only step 0 is saved.
  status, stderr = faults.finish(faults.start(faults.FAULTY, "SIGTERM", 13, *arguments))
  assert status == 75 and "the same command continues" in stderr
  assert faults.finish(faults.start(faults.FAULTY, "SIGKILL", 27, *arguments))[0] == -9
  status, stderr = faults.finish(faults.start(faults.STRAIGHT, *arguments))
  assert status == 0, stderr
  found = faults.trail(tmp_path / "run")
  train = lambda lines: [line for line in lines if '"split": "train"' in line]
  assert train(found) == train(expected) and len(train(found)) == 40
  assert found[-1] == expected[-1]  # Between, t5x counts its evaluations from where it was restarted.


@pytest.mark.parametrize("changes, words", [
    ({"EVAL_PERIOD": 12}, "multiple of the other"), ({"CheckpointConfig__keep_period": 2}, "no counterpart"),
    ({"train__trained": "layers/.*"}, "train.trained is set")])
def test_what_t5x_cannot_do_is_said_before_it_starts(text, tmp_path, capsys, changes, words):
  assert cli.main([*corpus.flags(text, tmp_path / "run", **ONE_DEVICE, **changes), "--loop=t5x"]) == 1
  assert words in capsys.readouterr().err
  assert not list((tmp_path / "run").glob("checkpoint_*"))


def test_an_objective_with_a_teacher_is_refused(text, tmp_path, capsys):
  assert cli.main(corpus.flags(text, tmp_path / "teacher", **ONE_DEVICE, TRAIN_STEPS=1, EVAL_PERIOD=None)) == 0
  flags = corpus.flags(text, tmp_path / "run", **ONE_DEVICE, OBJECTIVE=corpus.Reference("@Distillation()"),
                       Distillation__teacher=str(tmp_path / "teacher"))
  assert cli.main([*flags, "--loop=t5x"]) == 1
  assert capsys.readouterr().err.splitlines()[-1].endswith(
      "Distillation.teacher is set, and t5x has no place for parameters that are never trained: choose another"
      " objective, or use --loop=gpt4x")
  assert not list((tmp_path / "run").glob("checkpoint_*"))


def test_a_checkpoint_that_does_not_fit(text, tmp_path, capsys):
  run("t5x", text, tmp_path / "run", TRAIN_STEPS=8)
  shutil.rmtree(tmp_path / "run" / "checkpoints")

  def fail(**changes):
    assert cli.main(corpus.flags(text, tmp_path / "run", **ONE_DEVICE, TRAIN_STEPS=8, **changes)) == 1
    return capsys.readouterr().err.splitlines()[-1]

  assert "target/layers/mlp/wi is float32[1, 8, 16] in the checkpoint and float32[1, 8, 24] in the" in fail(
      TransformerConfig__mlp_dim=24)
  assert "flax_mutables/memory/layers is float32[1, 8, 8, 8] in the checkpoint" in fail(BATCH_SIZE=16)
  assert "state/param_states" in fail(OPTIMIZER=corpus.Reference("@lion()"), lion__learning_rate=1e-3)
  shutil.rmtree(tmp_path / "run" / "checkpoint_8" / "dataset")
  assert "no data position" in fail()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_layout(name):
  """Statistics of a parameter's shape lie as the parameter does, the rest everywhere."""
  model = tiny.make(vocab_size=12)
  model = model_of(model, OptaxOptimizer(OPTIMIZERS[name](1e-2), model.lm))
  partitioner = MeshPartitioner(num_partitions=2)
  shapes = {"decoder_input_tokens": (8, 4)}
  initializer = utils.TrainStateInitializer(model.optimizer_def, model.get_initial_variables, shapes, partitioner)
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  laid_out = {leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(state.params)}
  for leaf in jax.tree.leaves(state.param_states):
    if leaf.shape in laid_out and leaf.ndim > 1:
      assert leaf.sharding.is_equivalent_to(
          jax.sharding.NamedSharding(partitioner.mesh, laid_out[leaf.shape]), leaf.ndim)
  assert any("model" in spec for spec in laid_out.values())


def model_of(model, optimizer_def=None, **options):
  dataset = DatasetConfig("local_text_bytes", {"targets": 4}, 8)
  return TransformerXLModel(Experiment(model.lm, dataset), optimizer_def, **options)


# Decoding and scoring.

PROMPTS = [[5, 6, 7], [8, 9, 4, 3], [6]]
LENGTH = 12


def prefix_batch(prompts):
  """As seqio's prefix converter lays prompts out, with targets that are not to be looked at."""
  batch = {name: np.full((len(prompts), LENGTH), 2, np.int32) for name in (
      "decoder_input_tokens", "decoder_target_tokens")}
  batch["decoder_causal_attention"] = np.zeros((len(prompts), LENGTH), np.int32)
  batch["decoder_loss_weights"] = np.ones((len(prompts), LENGTH), np.int32)
  for row, prompt in enumerate(prompts):
    batch["decoder_input_tokens"][row, :len(prompt) + 1] = [0, *prompt]
    batch["decoder_causal_attention"][row, :len(prompt) + 1] = 1
  return batch


@pytest.fixture(scope="module", name="reverse")
def _reverse():
  with reverse_task.registered() as name:
    yield name


def prefix_model(model, task, decode_fn):
  dataset = DatasetConfig(task, {"inputs": 6, "targets": 6}, 4, feature_converter="prefix_lm")
  return TransformerXLModel(Experiment(model.lm, dataset), decode_fn=decode_fn)


@pytest.mark.parametrize("style", ["paper", "modern"])
def test_t5x_s_greedy_decoding_is_our_own(reverse, style):
  """No prompt ends at the same place, and every continuation is as long as there is room."""
  model = tiny.make(**tiny.STYLES[style])
  params = jax.tree.map(jnp.asarray, model.params)
  theirs = prefix_model(model, reverse, functools.partial(decoding.temperature_sample, temperature=0.0))
  predict = jax.jit(
      lambda params, batch: theirs.predict_batch_with_aux(params, batch, decoder_params={"eos_id": -1})[0])
  found = np.asarray(predict(params, prefix_batch(PROMPTS)))
  ours = Engine(model.lm, window=LENGTH, eos_id=None, sampling=Sampling(temperature=0.0), segment_length=LENGTH,
                first_id=0)  # t5x may draw 0.
  expected = np.concatenate([piece.tokens for piece in ours(params, PROMPTS, LENGTH, bidirectional=True)], 1)
  for row, prompt in enumerate(PROMPTS):
    room = LENGTH - 1 - len(prompt)
    np.testing.assert_array_equal(found[row, :room], expected[row, :room])


def test_beams_and_several_samples(reverse):
  """The best beam is at least as likely as what is drawn, and both are sorted by their scores."""
  model = tiny.make()
  params = jax.tree.map(jnp.asarray, model.params)

  def predict(decode_fn, **options):
    theirs = prefix_model(model, reverse, functools.partial(decode_fn, **options))
    return jax.jit(lambda params, batch: theirs.predict_batch_with_aux(
        params, batch, num_decodes=3, return_all_decodes=True, decoder_params={"eos_id": -1}))(
            params, prefix_batch(PROMPTS[:1]))

  beams, beam_aux = predict(decoding.beam_search, alpha=0.0)
  samples, sample_aux = predict(decoding.temperature_sample, topk=0, rescale_log_probs=False)
  assert beams.shape == samples.shape == (1, 3, LENGTH)
  assert np.all(np.diff(beam_aux["scores"]) >= 0) and np.all(np.diff(sample_aux["scores"]) >= 0)
  assert beam_aux["scores"][0, -1] >= sample_aux["scores"][0, -1] - 1e-4


@pytest.mark.parametrize("return_intermediates", [False, True])
def test_scores_are_the_log_likelihood(reverse, return_intermediates):
  model = tiny.make()
  batch = prefix_batch(PROMPTS)
  theirs = prefix_model(model, reverse, decoding.temperature_sample)
  scores = theirs.score_batch(model.params, batch, return_intermediates)
  if return_intermediates:
    scores = scores[0]
  logits, _ = model.lm.logits(
      model.params, batch["decoder_input_tokens"], model.lm.initial_memory(len(PROMPTS), 0),
      prefix=batch["decoder_causal_attention"])
  expected = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["decoder_target_tokens"][..., None], -1).sum((1, 2))
  np.testing.assert_allclose(scores, expected, rtol=1e-4)


# t5x's own command.

def t5x_main(mode, folder, *flags):
  """`python -m t5x.main` in a folder of its own; fails with what it printed."""
  result = subprocess.run(
      [sys.executable, "-m", "t5x.main", f"--run_mode={mode}", f"--gin_file=runs/t5x_{mode}.gin", *map(str, flags)],
      cwd=folder, env=faults.on(1), capture_output=True, text=True)
  assert result.returncode == 0, result.stderr[-4000:]


def test_t5x_s_own_command_trains_evaluates_and_infers(repository, tmp_path):
  run_dir, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoint_6"
  experiment = tmp_path / "reverse.gin"
  experiment.write_text(reverse_task.GIN)
  (tmp_path / "reverse_task_registered.py").write_text(
      "from tests.interop import reverse_task\n\nreverse_task.add('reverse')\n")
  common = (f"--gin_search_paths={repository / 'gin_configs'}", f"--gin_file={experiment}")
  env_path = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", env_path)
    t5x_main("train", tmp_path, *common, f'--gin.MODEL_DIR="{run_dir}"')
    assert checkpoint.exists()
    for mode in ("eval", "infer"):
      t5x_main(mode, tmp_path, *common, f'--gin.CHECKPOINT_PATH="{checkpoint}"',
               f'--gin.OUTPUT_DIR="{tmp_path / mode}"')
  metrics = next((tmp_path / "eval").rglob("*-metrics.jsonl")).read_text()
  assert "mean_score" in metrics and "exact" in metrics
  lines = next((tmp_path / "infer").glob("*.jsonl-*")).read_text().splitlines()
  assert [json.loads(line)["inputs"]["inputs_pretokenized"] for line in lines] == [
      source for source, _ in reverse_task.EXAMPLES]
