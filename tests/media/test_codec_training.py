"""Codecs are trained by the loop that trains language models, and what is exported is what was trained."""

import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.errors import UserError
from gpt4x.media import codec_files, spectra
from gpt4x.media.codec_module import scaled, to_cells
from gpt4x.media.medium import Image
from gpt4x.models.codec_model import CodecModel
from gpt4x.objectives.reconstruction import media_of_bytes, Reconstruction
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.metrics import read_metrics
from gpt4x.training.optimizers import muon, sgd
from gpt4x.training.step import TrainStep
from tests.media import byte_tasks, codecs
from tests.models import tiny

GIN_FILE = pathlib.Path(__file__).parent / "codec.gin"
ROWS = 8


def flags(model_dir, **bindings):
  values = {name.replace("__", "."): value for name, value in bindings.items()}
  return ["train", f"--gin_file={GIN_FILE}", f"--model_dir={model_dir}",
          *(f"--gin.{name}={value!r}" for name, value in values.items())]


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  """A run of 6 steps in one go."""
  folder = tmp_path_factory.mktemp("codec") / "run"
  assert cli.main(flags(folder)) == 0
  return folder


def trail(model_dir):
  """What a run reports but its speed."""
  lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
  return [{name: value for name, value in line.items() if name not in (
      "steps_per_second", "tokens_per_second", "mfu", "input_wait")} for line in lines]


def test_a_run_that_is_stopped_and_goes_on_reports_the_same(run, tmp_path):
  assert cli.main(flags(tmp_path / "run", TRAIN_STEPS=3)) == 0
  assert cli.main(flags(tmp_path / "run")) == 0
  assert trail(tmp_path / "run") == trail(run)


def test_what_is_reported(run):
  lines = read_metrics(str(run))
  first, *_, last = [line for line in lines if line["split"] == "validation"]
  assert last["loss"] < first["loss"]
  for line in (first, last):
    assert line["psnr"] == pytest.approx(-10 * math.log10(line["squared_error"]))
    assert line["loss"] == pytest.approx(4 * line["squared_error"], rel=1e-5)
    assert 0 < line["codes_used"] <= 1 and 0 <= line["code_bits"] <= math.log2(12)
    assert line["tokens"] == 11 * 24  # Padding rows are no images.
    assert not {"perplexity", "bits_per_byte"} & set(line)  # It is no likelihood.


def test_evaluation_is_of_the_decoded_images(run, capsys):
  """PSNR and codes used, by the exported codec and NumPy."""
  assert cli.main(["eval", f"--model_dir={run}"]) == 0
  told = dict(line.split() for line in capsys.readouterr().out.splitlines())
  codec, pixels = exported(run), byte_tasks.rows("image", "validation").reshape(-1, 4, 6, 1).astype(np.uint8)
  codes = codec.encode_all([Image(one) for one in pixels])
  decoded = np.stack([codec.decode(one).pixels for one in codes]).astype(float)
  psnr = 10 * math.log10(255**2 / np.mean((decoded - pixels)**2))
  assert float(told["psnr"]) == pytest.approx(psnr, abs=0.02)  # Decoded pixels are whole numbers.
  counts = np.bincount(np.concatenate([one.ravel() for one in codes]), minlength=12)
  share = counts[counts > 0] / counts.sum()
  assert float(told["codes_used"]) == pytest.approx(np.mean(counts > 0), rel=1e-5)
  assert float(told["code_bits"]) == pytest.approx(-np.sum(share * np.log2(share)), rel=1e-5)
  assert float(told["commonest_code"]) == pytest.approx(share.max(), rel=1e-5)
  assert "perplexity" not in told


@functools.cache
def exported(run):
  assert cli.main(["export", f"--model_dir={run}", f"--output={run.parent / 'exported'}"]) == 0
  return codec_files.load(run.parent / "exported")


def test_an_exported_codec_has_the_runs_codes(run):
  codec = exported(run)
  assert sorted(path.name for path in (run.parent / "exported").iterdir()) == ["codec.json", "codec.safetensors"]
  experiment = reading.saved_experiment(str(run))
  _, params = experiment.restore_params(str(run), Partitioner(data=1, num_devices=1))
  pixels = byte_tasks.rows("image", "validation").reshape(-1, 4, 6, 1).astype(np.uint8)
  _, _, expected = experiment.model.reconstruct(params, scaled(jnp.asarray(pixels)))
  np.testing.assert_array_equal(np.stack(codec.encode_all([Image(one) for one in pixels])), expected)


@pytest.mark.parametrize("command", [["generate", "--prompt=a"], ["report"]])
def test_commands_for_text_say_that_there_is_none(run, capsys, command):
  name, *rest = command
  assert cli.main([name, f"--model_dir={run}", *rest]) == 1
  assert "error: the model is a CodecModel, which has no text" in capsys.readouterr().err


@pytest.mark.parametrize("bindings, words", [
    ({"TASK_FEATURE_LENGTHS": {"targets": 25}}, "TASK_FEATURE_LENGTHS has 25 bytes, which are no image of 4 x 6"),
    ({"Reconstruction.size": (8, 3), "CodecConfig.patch": 2}, "8 x 3 pixels .* are no whole patches"),
    ({"CodecConfig.medium": "audio", "TASK_FEATURE_LENGTHS": {"targets": 23}}, "23 bytes of sound, .* make it even"),
    ({"CodecConfig.medium": "picture"}, "CodecConfig.medium = 'picture' must be 'image', 'audio' or 'video'"),
    ({"CodecConfig.levels": (1, 2)}, r"CodecConfig.levels = \(1, 2\) must be whole numbers from 2 to 256"),
    ({"CodecConfig.time_patch": 2}, "CodecConfig.time_patch = 2 is for videos: leave it at 1"),
])
def test_what_does_not_fit_is_told_of_in_one_line(tmp_path, capsys, bindings, words):
  assert cli.main(flags(tmp_path / "run", EVAL_PERIOD=None, **bindings)) in (1, 2)
  err = capsys.readouterr().err
  assert "Traceback" not in err
  with pytest.raises(UserError, match=words):
    raise UserError(err.splitlines()[-1])


# Steps on any mesh.


def batch_of(name, rows=ROWS, seed=0):
  """Rows of random bytes, the last of which is padding."""
  medium = codecs.CONFIGS[name].medium
  length = {"image": 24, "rgb": 72, "audio": 80, "video": 64}[name]
  tokens = np.random.default_rng(seed).integers(3, 259, (rows, length), dtype=np.int32)
  tokens[-1] = 0
  return medium, {"decoder_target_tokens": tokens, "decoder_input_tokens": np.roll(tokens, 1, 1),
                  "decoder_loss_weights": (tokens > 0).astype(np.float32),
                  "decoder_segment_ids": (tokens > 0).astype(np.int32)}


OBJECTIVES = {"image": Reconstruction((4, 6)), "rgb": Reconstruction((4, 6)), "video": Reconstruction((4, 4)),
              "audio": Reconstruction(windows=(16, 32))}


@functools.cache
def steps(name, mesh, microbatches=1, optimizer=sgd, count=3):
  model, partitioner = CodecModel(codecs.CONFIGS[name]), Partitioner(**dict(mesh))
  step = TrainStep(model, OBJECTIVES[name], optimizer(0.01), 1.0, microbatched(microbatches))
  shapes = state_shapes(step, ROWS, 0, partitioner)
  state, history = init_state(step, shapes, partitioner), []
  with partitioner.activate():
    run = tiny.jit(step.__call__)
    for number in range(count):
      _, batch = batch_of(name, seed=number)
      state, metrics = run(state, {key: partitioner.global_array(value, ROWS) for key, value in batch.items()})
      history.append({key: float(value) for key, value in metrics.items()})
  return history


ONE = (("data", 1), ("num_devices", 1))


@pytest.mark.parametrize("name, mesh", [
    ("image", (("data", 8),)), ("audio", (("data", 2), ("fsdp", 2), ("tensor", 2))), ("video", (("data", 8),))])
def test_eight_devices_train_as_one_does(name, mesh):
  for one, other in zip(steps(name, mesh), steps(name, ONE), strict=True):
    assert one == pytest.approx(other, rel=2e-3)


def test_microbatches_change_nothing():
  for one, other in zip(steps("image", ONE, microbatches=2), steps("image", ONE), strict=True):
    assert one == pytest.approx(other, rel=2e-3)


def test_muon_trains_a_codec_too():
  first, *_, last = steps("image", ONE, optimizer=muon, count=10)
  assert last["loss"] < first["loss"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_parameters_learn(name):
  """None is without a gradient."""
  config = codecs.CONFIGS[name]
  model, (_, batch) = CodecModel(config), batch_of(name)
  loss = lambda params: OBJECTIVES[name](model, params, {}, batch, (), None)[0]["loss"].mean
  for path, leaf in jax.tree_util.tree_leaves_with_path(tiny.jit(jax.grad(loss))(codecs.params_of(config))):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


# What the objective measures.


def measured(name, batch):
  objective, model = OBJECTIVES[name], CodecModel(codecs.CONFIGS[name])
  return tiny.jit(lambda params: objective(model, params, {}, batch, (), None))(codecs.params_of(model.config))


def test_the_squared_error_of_images_in_numpy():
  config, (_, batch) = codecs.CONFIGS["rgb"], batch_of("rgb")
  model, params = CodecModel(config), codecs.params_of(codecs.CONFIGS["rgb"])
  sums, memory = measured("rgb", batch)
  pixels = (batch["decoder_target_tokens"][:-1] - 3).reshape(-1, 4, 6, 3) / 255
  made, _, codes = tiny.jit(model.reconstruct)(params, scaled(jnp.asarray(pixels * 255, jnp.float32).astype(jnp.uint8)))
  error = np.mean((np.clip((np.asarray(made) + 1) / 2, 0, 1) - pixels)**2)
  assert memory == () and sums["squared_error"].weight == 7 * 72
  np.testing.assert_allclose(sums["squared_error"].mean, error, rtol=1e-5)
  counts = np.bincount(np.asarray(codes).ravel(), minlength=12)
  np.testing.assert_allclose(sums["commonest_code"].value[0] / 72, counts)
  np.testing.assert_allclose(sums["commonest_code"].mean.max(), counts.max() / counts.sum(), rtol=1e-6)


def test_the_errors_of_sounds():
  config, (_, batch) = codecs.CONFIGS["audio"], batch_of("audio")
  model, params = CodecModel(config), codecs.params_of(config)
  sums, _ = measured("audio", batch)
  values = (batch["decoder_target_tokens"][:-1] - 3).reshape(7, 40, 2)
  samples = (values[..., 0] * 256 + values[..., 1] - 32768) / 32768
  made, cells, _ = tiny.jit(model.reconstruct)(params, jnp.asarray(samples, jnp.float32))
  np.testing.assert_allclose(sums["squared_error"].mean, np.mean((np.clip(made[:, :40], -1, 1) - samples)**2) / 4,
                             rtol=1e-4)
  target = to_cells(config, jnp.asarray(samples, jnp.float32))
  np.testing.assert_allclose(sums["coefficient_error"].mean, np.mean((cells - target)**2), rtol=1e-4)
  mel = lambda x: spectra.log_mel(jnp.asarray(x, jnp.float32), 800, 24)  # 32 ms are 25.6 samples.
  distance = np.mean(np.sqrt(np.mean((mel(made[:, :40]) - mel(samples))**2, -1)))
  np.testing.assert_allclose(sums["log_spectral_distance"].mean, distance, rtol=1e-3)
  assert sums["loss"].mean == pytest.approx(
      float(sums["coefficient_error"].mean + 50 * sums["spectral_error"].mean), rel=1e-5)


def test_bytes_are_media():
  image, sound = codecs.CONFIGS["image"], codecs.CONFIGS["audio"]
  tokens = jnp.arange(3, 19)[None]
  np.testing.assert_array_equal(media_of_bytes(image, tokens, None)[0, ..., 0], np.arange(16).reshape(4, 4))
  np.testing.assert_array_equal(media_of_bytes(image, tokens, (2, 8))[0, ..., 0], np.arange(16).reshape(2, 8))
  samples = np.array([-32768, -1, 0, 255, 32767], np.int16)
  raised = samples.astype(np.int32) + 32768
  tokens = np.stack([raised >> 8, raised & 255], -1).reshape(1, -1) + 3
  assert media_of_bytes(sound, jnp.asarray(tokens), None)[0].tolist() == samples.tolist()
  video = codecs.CONFIGS["video"]
  assert media_of_bytes(video, jnp.zeros((2, 3 * 4 * 6), int), (4, 6)).shape == (2, 3, 4, 6, 1)
  rgb = dataclasses.replace(video, channels=3)
  assert media_of_bytes(rgb, jnp.zeros((2, 3 * 4 * 6 * 3), int), (4, 6)).shape == (2, 3, 4, 6, 3)


def test_darker_than_black_is_no_error_and_not_lost():
  from gpt4x.objectives import reconstruction
  loss = lambda x, target: jnp.square(reconstruction._within(x) - target)
  assert loss(-3.0, -1.0) == 0 and jax.grad(loss)(-3.0, -1.0) == 0
  assert loss(-3.0, 0.0) == 1 and jax.grad(loss)(-3.0, 0.0) == -2
