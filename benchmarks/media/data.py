"""Small public sets as folders with JSON-lines, which the tasks of tasks/local_media.py read.

Each function takes the directory of the files as they were published and a folder to write, and splits by what the set
itself says: no test file is ever in a training folder.
"""

from collections.abc import Sequence
import gzip
import json
import pathlib

import numpy as np

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


# Fashion-MNIST: 28 x 28 grey.


def fashion(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """(images uint8 [n, 28, 28], labels [n]) of the split 'train' or 'test', as far as the files go.

  A training image that is in the test split too is left out.
  """
  pixels, labels = _idx(source, {"train": "train", "test": "t10k"}[split])
  if split == "train":
    tested = {image.tobytes() for image in fashion(source, "test")[0]}
    kept = [image.tobytes() not in tested for image in pixels]
    pixels, labels = pixels[kept], labels[kept]
  return pixels, labels


def _idx(source: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  folder = pathlib.Path(source, "fashion-mnist")
  images, = folder.glob(f"{name}-images-idx3-ubyte*.gz")
  labels, = folder.glob(f"{name}-labels-idx1-ubyte*.gz")
  pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
  return pixels, np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)[:len(pixels)]


def write_fashion(source: str, folder: pathlib.Path) -> None:
  """PNGs with the name of their class: train.jsonl and test.jsonl."""
  for split in ("train", "test"):
    pixels, labels = fashion(source, split)
    write_images(folder, split, pixels, [{"text": CLASSES[label]} for label in labels])


def write_images(folder: pathlib.Path, split: str, pixels: Sequence[np.ndarray], records: Sequence[dict]) -> None:
  """Images [H, W] or [H, W, C] as PNGs below folder/split, with what is said of each in folder/split.jsonl."""
  from PIL import Image
  (folder / split).mkdir(parents=True)
  for number, image in enumerate(pixels):
    Image.fromarray(image).save(folder / split / f"{number:05}.png")
  write_records(folder / f"{split}.jsonl",
                [{"image": f"{split}/{number:05}.png", **record} for number, record in enumerate(records)])


def write_records(path: pathlib.Path, records: Sequence[dict]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


# FSDD: spoken digits, 8 kHz.


def recordings(source: str) -> list[tuple[pathlib.Path, int, str, int]]:
  """(path, digit, speaker, index) of all recordings, in order."""
  found = []
  for path in sorted(pathlib.Path(source, "fsdd", "recordings").glob("*.wav")):
    digit, speaker, index = path.stem.split("_")
    found.append((path.resolve(), int(digit), speaker, int(index)))
  return found


def write_speech(source: str, folder: pathlib.Path, left_out: str | None = None) -> None:
  """train.jsonl and test.jsonl: indices 0 to 4 are test; or the whole of one speaker is, and none of him training.

  The lines are in no order. A training file that is a copy of a test file is left out.
  """
  lines: dict[str, list[dict]] = {"train": [], "test": []}
  is_test = lambda one: one[3] < 5 if left_out is None else one[2] == left_out
  found = recordings(source)
  tested = {one[0].read_bytes() for one in found if is_test(one)}
  for place in np.random.default_rng(0).permutation(len(found)):
    path, digit, speaker, _ = one = found[place]
    if is_test(one) or path.read_bytes() not in tested:
      lines["test" if is_test(one) else "train"].append(
          {"audio": str(path), "text": DIGITS[digit], "speaker": speaker})
  for split, records in lines.items():
    write_records(folder / f"{split}.jsonl", records)
