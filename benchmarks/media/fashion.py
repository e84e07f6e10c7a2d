"""What the scripts on Fashion-MNIST share: its files with moved copies, and its codec."""

import pathlib
from typing import Any

import numpy as np

from benchmarks.media import data, runs

# A small decoder: 1.0 million parameters. 259 bytes, 16 specials, 64 sizes and 1,000 codes are 1,339 ids.
DECODER: dict[str, Any] = {
    "TransformerConfig.vocab_size": 1344, "TransformerConfig.num_layers": 4, "TransformerConfig.embed_dim": 128,
    "TransformerConfig.mlp_dim": 512}


def write(bench: runs.Bench) -> None:
  """train.jsonl and test.jsonl: PNGs with the names of their classes."""
  data.write_fashion(bench.source, bench.folder)


def write_moved(bench: runs.Bench, name: str, originals: int, copies: int, said: str = "") -> None:
  """NAME.jsonl: each training image `originals` times, and `copies` moved and mirrored ones, whose text says so."""
  rng = np.random.default_rng(0)
  pixels, labels = data.fashion(bench.source, "train")
  made = [moved(image, *rng.integers(-1, 2, 2), mirrored=bool(rng.integers(2))) for image in pixels
          for _ in range(copies)]
  data.write_images(pathlib.Path(bench.folder), name, made, [
      {"text": said + data.CLASSES[label]} for label in np.repeat(labels, copies)])
  lines = (bench.folder / "train.jsonl").read_text() * originals
  with (bench.folder / f"{name}.jsonl").open("a") as file:
    file.write(lines)


def files(bench: runs.Bench, name: str = "train") -> dict[str, str]:
  """Bindings that read NAME.jsonl, and the test images for validation."""
  return {"LocalMedia.files": str(bench.folder / f"{name}.jsonl"),
          "LocalMedia.validation_files": str(bench.folder / "test.jsonl")}


def codec(bench: runs.Bench, seed: int = 0) -> str:
  """Trains a codec on the training images; its directory."""
  return bench.codec(f"codec{seed}", "experiments/image_codec.gin", SEED=seed, **files(bench))


def moved(image: np.ndarray, down: int, right: int, mirrored: bool) -> np.ndarray:
  """The image [H, W] moved by so many pixels, its edges repeated, and mirrored if so."""
  most = max(abs(down), abs(right))
  rows, columns = (slice(most - by, most - by + size) for by, size in zip((down, right), image.shape))
  found = np.pad(image, most, mode="edge")[rows, columns]
  return found[:, ::-1] if mirrored else found
