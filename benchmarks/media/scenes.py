"""NLVR as folders with JSON-lines: scenes of three boxes, with questions whose answers follow from what is in them.

An image has its three boxes side by side; the grey bars of the published files carry nothing and are left out. Splits
are those of the set, whose directories differ. A training scene whose very pixels a test image has is left out too.
"""

from collections.abc import Iterator
import hashlib
import itertools
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from benchmarks.media import data

TRAIN, TEST = ("dev", "test"), "hidden"
PLACES = ("left", "middle", "right")
COLOURS, SHAPES = ("yellow", "black", "blue"), ("circle", "triangle", "square")
BOX, STRIDE = 100, 150  # Pixels of a side, and from one box to the next.


class Scene(NamedTuple):
  """A scene whose boxes may stand in another order, and be mirrored; what is true of it otherwise stays."""

  boxes: tuple[np.ndarray, ...]  # RGB [100, 100, 3] each.
  record: dict[str, Any]
  order: tuple[int, ...] = (0, 1, 2)  # Which of the record's boxes stands where.
  flipped: bool = False  # Mirrored.

  @property
  def pixels(self) -> np.ndarray:
    return np.concatenate(self.boxes, 1)

  @property
  def is_towers(self) -> bool:
    """Whether all there is are towers of blocks; if not, objects are scattered."""
    return all((one["size"], one["x_loc"]) == (20, 40) for box in self.record["structured_rep"] for one in box)


def read(source: str, split: str) -> Iterator[Scene]:
  from PIL import Image
  folder = pathlib.Path(source, "nlvr", split)
  paths = {path.name: path for path in folder.glob("images/**/*.png")}
  for line in (folder / f"{split}.json").read_text().splitlines():
    if line.strip():
      record = json.loads(line)
      pixels = np.array(Image.open(paths[f"{split}-{record['identifier']}-0.png"]).convert("RGB"))
      yield Scene(tuple(pixels[:, start:start + BOX] for start in range(0, 3 * STRIDE - 1, STRIDE)), record)


def write(source: str, folder: pathlib.Path, copies: int, seed: int = 0) -> dict[str, list[tuple[str, Scene]]]:
  """(file, scene) of the images of 'train' and 'test'; training scenes are so many times there, moved about."""
  rng, found = np.random.default_rng(seed), {"test": list(read(source, TEST))}
  tested = {_content(scene) for scene in found["test"]}
  found["train"] = [moved(scene, rng) for split in TRAIN for scene in read(source, split)
                    if _content(scene) not in tested for _ in range(copies)]
  for split, scenes in found.items():
    data.write_images(folder, split, [scene.pixels for scene in scenes], [{}] * len(scenes))
  return {split: [(f"{split}/{number:05}.png", scene) for number, scene in enumerate(scenes)]
          for split, scenes in found.items()}


def _content(scene: Scene) -> bytes:
  """Equal for equal boxes in any order, mirrored or not."""
  return b"".join(sorted(min(hashlib.sha256(box.tobytes()).digest(), hashlib.sha256(box[:, ::-1].tobytes()).digest())
                         for box in scene.boxes))


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
  """The boxes in another order, all mirrored or none."""
  flipped, order = bool(rng.integers(2)), tuple(rng.permutation(len(scene.boxes)).tolist())
  boxes = [scene.boxes[number] for number in order]
  return Scene(tuple(box[:, ::-1] if flipped else box for box in boxes), scene.record, order, flipped)


# Questions.


class Objects(list[dict[str, Any]]):
  """Those of a scene or of a box."""

  def count(self, **wanted: str) -> str:
    return str(sum(all(one[key] == value for key, value in wanted.items()) for one in self))


def boxes_of(scene: Scene) -> list[Objects]:
  """What is in each box, from left to right."""
  return [Objects(one | {"color": "blue" if one["color"] == "#0099ff" else one["color"].lower(),
                         "type": one["type"].lower()} for one in scene.record["structured_rep"][number])
          for number in scene.order]


def questions(scene: Scene) -> list[tuple[str, str]]:
  """(question, answer): how many there are of a kind, whether there is one, and colours, where there is one answer."""
  boxes = boxes_of(scene)
  objects = Objects(itertools.chain(*boxes))
  found = [("how many objects?", objects.count())]
  found += [(f"how many {colour} objects?", objects.count(color=colour)) for colour in COLOURS]
  for place, box in zip(PLACES, boxes):
    found.append((f"how many objects in the {place} box?", box.count()))
    found += [(f"how many {colour} objects in the {place} box?", box.count(color=colour)) for colour in COLOURS]
  for wanted in [{"type": shape} for shape in SHAPES] + [
      {"color": colour, "type": shape} for colour, shape in itertools.product(COLOURS, SHAPES)]:
    kind, count = " ".join(wanted.values()), objects.count(**wanted)
    found += [(f"how many {kind}s?", count), (f"is there a {kind}?", "no" if count == "0" else "yes")]
  largest = {one["color"] for one in objects if one["size"] == max(one["size"] for one in objects)}
  most, next_most = sorted(((int(objects.count(color=colour)), colour) for colour in COLOURS), reverse=True)[:2]
  if len(largest) == 1:
    found.append(("what colour are the largest objects?", largest.pop()))
  if most[0] > next_most[0]:
    found.append(("what colour are most objects?", most[1]))
  return found


def lists(scene: Scene) -> list[tuple[str, str]]:
  """Questions that ask for several numbers: more to learn from a picture at once. None is in the test."""
  boxes = boxes_of(scene)
  objects = Objects(itertools.chain(*boxes))
  kinds = list(itertools.product(COLOURS, SHAPES))
  found = {"how many objects in each box?": [box.count() for box in boxes],
           "how many of each colour?": [objects.count(color=colour) for colour in COLOURS],
           "how many of each shape?": [objects.count(type=shape) for shape in SHAPES],
           "how many of each colour and shape?": [objects.count(color=colour, type=shape) for colour, shape in kinds],
           "how many of each colour in each box?": [box.count(color=colour) for box in boxes for colour in COLOURS]}
  return [(question, " ".join(numbers)) for question, numbers in found.items()]


def drawn(scene: Scene, rng: np.random.Generator, count: int,
          of: list[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
  """Some of the questions, fewer of those whose answer is that there are none: most kinds are in few scenes."""
  found = of or questions(scene)
  weights = np.array([0.3 if answer in ("0", "no") else 1.0 for _, answer in found])
  return [found[i] for i in rng.choice(len(found), count, replace=False, p=weights / weights.sum())]


def sentence(scene: Scene) -> tuple[str, str] | None:
  """What a person wrote of the scene, and 'true' or 'false'; None if that speaks of sides, and these are exchanged."""
  words = re.sub(r"\s+", " ", scene.record["sentence"].lower()).strip()
  return None if scene.flipped and re.search(r"\b(left|right)", words) else (words, scene.record["label"])


def asked(file: str, question: str, answer: str) -> dict[str, str]:
  """A line of an image and a question."""
  return {"image": file, "question": question, "answer": answer}
