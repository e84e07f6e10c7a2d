"""The media of a split, as a codec in training has them: measured, and shown below the originals."""

from collections.abc import Callable
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.evaluation import media
from gpt4x.evaluation.contact_sheet import Cell
from gpt4x.evaluation.gallery import Gallery
from gpt4x.experiment import Experiment
from gpt4x.media.codec import LearnedCodec
from gpt4x.media.medium import Audio, Image, Video
from gpt4x.objectives.reconstruction import media_of_bytes


class Reconstructions:
  """What `samples.MediaSampler` is for a decoder: its call has the same meaning."""

  def __init__(self, experiment: Experiment, split: str):
    self._config, self._data, self._split = experiment.model.config, experiment.data, split
    self._size = getattr(experiment.objective, "size", None)

  def __call__(self, params: Any, count: int,
               between_batches: Callable[[], None] = lambda: None) -> tuple[dict[str, float], Gallery]:
    """The first media of the split: the mean of their PSNR, or of the spectral distance of sounds."""
    if jax.process_index():
      return {}, Gallery([])  # A codec is small: every process has all of it.
    if jax.process_count() == 1:
      between_batches()
    codec = LearnedCodec(self._config, jax.device_get(params), {})
    originals = self._originals(count)
    made = [_cut(one, original) for one, original in zip(codec.decode_all(codec.encode_all(originals)), originals)]
    measure: Callable[..., float]
    name, measure = ("spectral_distance", media.spectral_distance) if self._config.medium == "audio" else (
        "psnr", media.psnr)
    found = [measure(*pair) for pair in zip(made, originals)]
    cells = [Cell(f"{value:.1f} dB", pair) for value, *pair in zip(found, originals, made)]
    return {f"samples/{name}": float(np.mean(found))}, Gallery(cells)

  def _originals(self, count: int) -> list[Any]:
    rows = (row for batch in self._data.evaluation(self._split)
            for row, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"]) if weights.any())
    tokens = jnp.asarray(np.stack(list(itertools.islice(rows, count))))
    arrays, c = np.asarray(media_of_bytes(self._config, tokens, self._size)), self._config
    make: Any = {"image": Image, "audio": lambda one: Audio(one, c.rate), "video": lambda one: Video(one, c.fps)}
    return [make[c.medium](one) for one in arrays]


def _cut(made: Any, original: Any) -> Any:
  """A reconstruction as long as its original: the last cell may have been filled up."""
  if isinstance(original, Audio):
    return Audio(made.samples[:len(original.samples)], made.rate)
  return Video(made.frames[:len(original.frames)], made.fps) if isinstance(original, Video) else made
