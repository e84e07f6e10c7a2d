"""What a codec in training makes of a split's media: shown below the originals, with the measure of each."""

import jax
import numpy as np
import pytest

from gpt4x.data.dataset import DatasetConfig
from gpt4x.evaluation import media
from gpt4x.evaluation.reconstructions import Reconstructions
from gpt4x.evaluation.samples import shower
from gpt4x.experiment import Experiment
from gpt4x.media.codec import LearnedCodec
from gpt4x.media.codec_module import CodecConfig
from gpt4x.models.codec_model import CodecModel
from gpt4x.objectives.reconstruction import Reconstruction
from tests.media import byte_tasks

CONFIGS = {"image": dict(patch=2), "audio": dict(hop=10), "video": dict(patch=2, time_patch=2)}


@pytest.mark.parametrize("medium", CONFIGS)
def test_originals_and_what_became_of_them(medium):
  config = CodecConfig(medium=medium, levels=(4, 3), width=4, depth=1, **CONFIGS[medium])
  length = int(np.prod(byte_tasks.SHAPES[medium]))
  size = byte_tasks.SHAPES[medium][-3:-1] if medium != "audio" else None
  trial = Experiment(CodecModel(config), DatasetConfig(f"tiny_{medium}_bytes", {"targets": length}, 4, "lm"),
                     Reconstruction(size=size))
  params = trial.model.init(jax.random.key(0))
  show = shower(trial, "validation")
  assert isinstance(show, Reconstructions)
  measures, shown = show(params, 6)
  assert len(shown.cells) == 6 and shown.sheet is not None
  rows, codec = byte_tasks.rows(medium, "validation"), LearnedCodec(config, params, {})
  found = []
  for row, cell in zip(rows, shown.cells):
    original, made = cell.media
    if medium == "audio":
      pairs = row.reshape(-1, 2)
      np.testing.assert_array_equal(original.samples, pairs[:, 0] * 256 + pairs[:, 1] - 32768)
      assert original.rate == config.rate and made.samples.shape == original.samples.shape
      found.append(media.spectral_distance(original, made))
    else:
      pixels = original.pixels if medium == "image" else original.frames
      np.testing.assert_array_equal(pixels.ravel(), row)
      found.append(media.psnr(original, made))
      decoded = codec.decode(codec.encode(original))  # Of a video, the last patch has frames to spare.
      np.testing.assert_array_equal(made.pixels if medium == "image" else made.frames,
                                    decoded.pixels if medium == "image" else decoded.frames[:len(pixels)])
    assert cell.caption == f"{found[-1]:.1f} dB"
  name = "spectral_distance" if medium == "audio" else "psnr"
  np.testing.assert_allclose(measures[f"samples/{name}"], np.mean(found), rtol=1e-6)
  assert len(show(params, 99)[1].cells) == byte_tasks.COUNTS["validation"], "padding rows are no media"
