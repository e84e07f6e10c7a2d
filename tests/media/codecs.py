"""Codecs that compile in about a second, made once per process."""

import functools

import jax
import numpy as np

from gpt4x.media import codec_files
from gpt4x.media.codec import LearnedCodec
from gpt4x.media.codec_module import CodecConfig
from gpt4x.media.medium import Audio, Image, Video
from gpt4x.models.codec_model import CodecModel

CONFIGS = {
    "image": CodecConfig("image", levels=(4, 3), patch=2, width=8, depth=1),
    "rgb": CodecConfig("image", levels=(4, 3), patch=2, channels=3, width=8, depth=1),
    "audio": CodecConfig("audio", levels=(4, 3), codebooks=2, rate=800, hop=8, width=8, depth=1),
    "video": CodecConfig("video", levels=(4, 3), patch=2, time_patch=2, width=8, depth=1, fps=5.0),
}


def params_of(config: CodecConfig):
  """Parameters with which codes differ much."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(CodecModel(config).init, jax.random.key(0))
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * (0.6 if leaf.ndim > 1 else 1.0),
                      shapes)


@functools.cache
def codec(name: str) -> LearnedCodec:
  return codec_files.make(CONFIGS[name], params_of(CONFIGS[name]))


def image(height: int, width: int, channels: int = 1, seed: int = 0) -> Image:
  return Image(np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8))


def audio(samples: int, rate: int = 800, seed: int = 0) -> Audio:
  return Audio(np.random.default_rng(seed).integers(-32768, 32768, samples, np.int16), rate)


def video(frames: int, height: int = 4, width: int = 6, seed: int = 0) -> Video:
  return Video(np.random.default_rng(seed).integers(0, 256, (frames, height, width, 1), np.uint8), 5.0)
