"""What samples of media are worth, beside the media of data."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt4x.evaluation import classification, features
from gpt4x.evaluation.media import nearest_distances
from gpt4x.media.medium import Image

Captioned = Sequence[tuple[str, Any]]  # A text, and the medium that was made from it or belongs to it.


def of_samples(made: Captioned, real: Captioned, training: np.ndarray | None, count: int) -> dict[str, float]:
  """Measures by name of images or of sounds, those that can be taken.

  `samples/cas` is there if the texts are labels: at most half as many are different as samples were asked for.
  `samples/nearest` is the mean distance of images from their nearest training image, `samples/nearest_real` that of the
  real ones.

  Args:
    made: the samples, as far as they came, of one kind.
    real: the media of the split that their conditions are of.
    training: images that the model was trained on, of one size.
    count: of the samples that were asked for.
  """
  found: dict[str, float] = {}
  (kind, size), _ = Counter(map(_kind, made)).most_common(1)[0]
  if 2 <= len({text for text, _ in real}) <= count / 2:
    pairs = [[one for one in some if _kind(one) == (kind, size)] for some in (made, real)]
    if all(pairs):
      (texts, ours), (labels, theirs) = (zip(*some) for some in pairs)
      vectors = features.timbre if kind == "audio" else _pictures
      found["samples/cas"] = classification.classification_accuracy_score(
          vectors(ours), texts, vectors(theirs), labels)
  if training is not None:
    for name, some in (("nearest", made), ("nearest_real", real)):
      if pixels := [one[1].pixels for one in some if _kind(one) == ("image", training.shape[1:])]:
        found[f"samples/{name}"] = float(nearest_distances(np.stack(pixels), training).mean())
  return found


def _pictures(images: Sequence[Image]) -> np.ndarray:
  return features.hog(np.stack([image.pixels for image in images]))


def _kind(one: tuple[str, Any]) -> tuple[str, tuple[int, ...]]:
  """What a medium is, and the shape of an image's pixels; that of a sound does not count."""
  return one[1].medium, one[1].pixels.shape if isinstance(one[1], Image) else ()
