"""Small public sets as folders with JSON-lines, which the tasks of tasks/local_media.py read.

Each function takes the directory of the files as they were published and a folder to write, and splits by what the set
itself says: no test file is ever in a training folder.
"""

from collections.abc import Iterator, Sequence
import gzip
import itertools
import json
import pathlib
import re
from typing import Any

import numpy as np

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
COUNTED = ("yellow", "black", "blue")
SHAPES = ("circle", "triangle", "square")


# Fashion-MNIST: 28 x 28 grey.


def fashion(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """(images uint8 [n, 28, 28], labels [n]) of the split 'train' or 'test', as far as the files go."""
  name = {"train": "train", "test": "t10k"}[split]
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
  """train.jsonl and test.jsonl: indices 0 to 4 are test; or the whole of one speaker is, and none of him training."""
  lines: dict[str, list[dict]] = {"train": [], "test": []}
  for path, digit, speaker, index in recordings(source):
    test = index < 5 if left_out is None else speaker == left_out
    lines["test" if test else "train"].append({"audio": str(path), "text": DIGITS[digit], "speaker": speaker})
  for split, records in lines.items():
    write_records(folder / f"{split}.jsonl", records)


# NLVR: scenes of three boxes, and questions whose answers follow from what is in them.


def scenes(source: str, split: str) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """(image, record) of a split; its directories differ from those of other splits."""
  folder = pathlib.Path(source, "nlvr", split)
  paths = {path.name: path.resolve() for path in folder.glob("images/**/*.png")}
  for line in (folder / f"{split}.json").read_text().splitlines():
    if line.strip():
      record = json.loads(line)
      yield paths[f"{split}-{record['identifier']}-0.png"], record


def questions(record: dict[str, Any]) -> list[tuple[str, str]]:
  """(question, answer): how many objects of a colour, of a shape, of both and in all there are; numbers as digits."""
  objects = [(_colour(one["color"]), one["type"].lower()) for box in record["structured_rep"] for one in box]
  found = [("how many objects?", len(objects))]
  for colour in COUNTED:
    found.append((f"how many {colour}?", sum(one[0] == colour for one in objects)))
  for shape in SHAPES:
    found.append((f"how many {shape}s?", sum(one[1] == shape for one in objects)))
  for colour, shape in itertools.product(COUNTED, SHAPES):
    found.append((f"how many {colour} {shape}s?", sum(one == (colour, shape) for one in objects)))
  return [(question, str(count)) for question, count in found]


def _colour(name: str) -> str:
  return "blue" if name == "#0099ff" else name.lower()


def write_counting(source: str, folder: pathlib.Path, train: Sequence[str] = ("dev", "test"),
                   test: str = "hidden") -> None:
  """A record for each question of each scene."""
  for name, splits in (("train", train), ("test", [test])):
    write_records(folder / f"{name}.jsonl", [
        {"image": str(path), "question": question, "answer": answer}
        for split in splits for path, record in scenes(source, split) for question, answer in questions(record)])


def write_truth(source: str, folder: pathlib.Path, train: Sequence[str] = ("dev", "test"),
                test: str = "hidden") -> None:
  """The sentences that people wrote, with 'true' or 'false'."""
  for name, splits in (("train", train), ("test", [test])):
    write_records(folder / f"{name}.jsonl", [
        {"image": str(path), "question": re.sub(r"\s+", " ", record["sentence"].lower()).strip(),
         "answer": record["label"]}
        for split in splits for path, record in scenes(source, split)])
