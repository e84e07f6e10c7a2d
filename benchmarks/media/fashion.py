"""What the scripts on Fashion-MNIST share: its files with moved copies, and its codec."""

from typing import Any

import numpy as np

from benchmarks.media import data, runs

COPIES = 6  # Of each training image, moved or mirrored; it is there as often as it is.


def write(bench: runs.Bench) -> None:
  """train.jsonl and test.jsonl: PNGs with the names of their classes; moved.jsonl: train.jsonl, and moved copies.

  Each training image is named many times, for a run makes ready anew what it reads once all is read.
  """
  data.write_fashion(bench.source, bench.folder)
  train = bench.folder / "train.jsonl"
  train.write_text(train.read_text() * COPIES)
  rng = np.random.default_rng(0)
  pixels, labels = data.fashion(bench.source, "train")
  made = [moved(image, *rng.integers(-1, 2, 2), mirrored=bool(rng.integers(2))) for image in pixels
          for _ in range(COPIES)]
  data.write_images(bench.folder, "moved", made, [{"text": data.CLASSES[label]} for label in np.repeat(labels, COPIES)])
  with (bench.folder / "moved.jsonl").open("a") as file:
    file.write(train.read_text())


def codec(bench: runs.Bench, seed: int = 0, **bindings: Any) -> str:
  """Trains a codec on the training images; its directory."""
  return bench.codec(f"codec{seed}", "experiments/image_codec.gin", SEED=seed, **bench.files(), **bindings)


def moved(image: np.ndarray, down: int, right: int, mirrored: bool) -> np.ndarray:
  """The image [H, W] moved by so many pixels, its edges repeated, and mirrored if so."""
  most = max(abs(down), abs(right))
  rows, columns = (slice(most - by, most - by + size) for by, size in zip((down, right), image.shape))
  found = np.pad(image, most, mode="edge")[rows, columns]
  return found[:, ::-1] if mirrored else found


def pca_psnr(source: str, bits: float) -> float:
  """The PSNR of test images by transform coding at so many bits an image, in dB.

  Its entropy code has the frequencies of the test images themselves, which no real one would.
  """
  (train, _), (test, _) = (data.fashion(source, split) for split in ("train", "test"))
  seen, pixels = (images.reshape(len(images), -1).astype(np.float64) for images in (train, test))
  mean = seen.mean(0)
  _, _, components = np.linalg.svd(seen - mean, full_matrices=False)
  coefficients, points = (pixels - mean) @ components.T, []
  for step in np.geomspace(1500, 40, 14):
    whole = np.round(coefficients / step)
    made = np.clip(mean + whole * step @ components, 0, 255)
    points.append((sum(map(_entropy, whole.T)), 10 * np.log10(255**2 / np.mean((made - pixels)**2))))
  return float(np.interp(bits, *zip(*points)))


def _entropy(symbols: np.ndarray) -> float:
  """In bits, by the symbols' own frequencies."""
  _, counts = np.unique(symbols, return_counts=True)
  shares = counts / len(symbols)
  return float(-np.sum(shares * np.log2(shares)))
