"""The data of the media benchmarks, from tiny sources: what is tested on is in no training."""

import gzip
import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from benchmarks.media import data, scenes

RNG = np.random.default_rng(0)


@pytest.fixture(name="source")
def _source(tmp_path):
  """The sets as they are published, where each test split has what a training split has too."""
  source = tmp_path / "source"
  pixels = RNG.integers(0, 256, (6, 28, 28), np.uint8)
  for name, images in (("train", pixels), ("t10k", pixels[4:])):
    write_idx(source / "fashion-mnist" / f"{name}-images-idx3-ubyte.gz", 16, images.tobytes())
    write_idx(source / "fashion-mnist" / f"{name}-labels-idx1-ubyte.gz", 8, bytes(range(len(images))))
  (source / "fsdd" / "recordings").mkdir(parents=True)
  for index in range(10):  # 5 to 9 are for training, and 9 is 0.
    (source / "fsdd" / "recordings" / f"3_theo_{index}.wav").write_bytes(bytes([index % 9]) * 9)
    (source / "fsdd" / "recordings" / f"4_lucas_{index}.wav").write_bytes(bytes([20 + index, index % 9]))
  write_scenes(source / "nlvr")
  return source


def write_idx(path, header, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(bytes(header) + content))


def box(colour, place):
  return [{"size": 20, "x_loc": 40, "y_loc": place, "type": "square", "color": colour}]


def write_scenes(folder):
  """Scenes of one square a box; 'hidden' has one of 'dev' with its boxes in another order, and mirrored."""
  yellow, black, blue = ("Yellow", 80), ("Black", 59), ("#0099ff", 38)
  splits = {"dev": [[yellow, black, blue], [blue, blue, blue]], "test": [[black, black, black]],
            "hidden": [[blue, yellow, black], [yellow, yellow, yellow]]}
  paint = {"Yellow": (255, 255, 0), "Black": (0, 0, 0), "#0099ff": (0, 153, 255)}
  for split, scenes_of_split in splits.items():
    (folder / split / "images" / "1").mkdir(parents=True)
    lines = []
    for number, boxes in enumerate(scenes_of_split):
      pixels = np.full((100, 400, 4), 255, np.uint8)
      for place, (colour, top) in enumerate(boxes):
        left = 150 * place + (60 if split == "hidden" else 20)
        pixels[top:top + 20, left:left + 20, :3] = paint[colour]
      Image.fromarray(pixels).save(folder / split / "images" / "1" / f"{split}-{number}-0-0.png")
      lines.append({"identifier": f"{number}-0", "sentence": "There  is a box on the Left.", "label": "true",
                    "structured_rep": [box(*one) for one in boxes]})
    (folder / split / f"{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def contents(folder: pathlib.Path, split: str) -> set[bytes]:
  """What the media of a folder's split hold, whichever way round a picture and its thirds are."""
  found = set()
  for line in (folder / f"{split}.jsonl").read_text().splitlines():
    record = json.loads(line)
    if "audio" in record:
      found.add(pathlib.Path(record["audio"]).read_bytes())
      continue
    pixels = np.array(Image.open(folder / record["image"]).convert("RGB"))
    parts = np.split(pixels, 3, 1) if pixels.shape[1] % 3 == 0 else [pixels]
    found.add(b"".join(sorted(min(part.tobytes(), part[:, ::-1].tobytes()) for part in parts)))
  return found


@pytest.mark.parametrize("write, train, test", [
    (data.write_fashion, 4, 2), (data.write_speech, 9, 10),
    (lambda source, folder: data.write_speech(source, folder, "theo"), 10, 9),
    (lambda source, folder: scenes.write(source, folder, copies=3), 2, 2)])
def test_no_test_file_is_in_training(source, tmp_path, write, train, test):
  folder = tmp_path / "made"
  folder.mkdir()
  write(str(source), folder)
  trained, tested = (contents(folder, split) for split in ("train", "test"))
  assert (len(trained), len(tested)) == (train, test) and not trained & tested


def test_questions_have_the_answers_of_the_scene():
  one = lambda colour, shape, size: {"color": colour, "type": shape, "size": size}
  boxes = [[one("Yellow", "circle", 30), one("#0099ff", "Square", 10)], [], [
      one("#0099ff", "square", 20), one("#0099ff", "triangle", 10)]]
  scene = scenes.Scene((), {"structured_rep": boxes}, order=(2, 1, 0))
  found = dict(scenes.questions(scene))
  assert len(found) == 4 + 12 + 6 + 18 + 2
  expected = {
      "how many objects?": "4", "how many blue objects?": "3", "how many black objects?": "0", "how many squares?": "2",
      "how many blue squares?": "2", "is there a black circle?": "no", "is there a triangle?": "yes",
      "how many objects in the left box?": "2", "how many blue objects in the left box?": "2",
      "how many yellow objects in the right box?": "1", "how many blue objects in the middle box?": "0",
      "what colour are the largest objects?": "yellow", "what colour are most objects?": "blue"}
  assert {question: found[question] for question in expected} == expected
  boxes[1] += [one("Black", "circle", 30), one("Yellow", "circle", 20), one("Yellow", "square", 20)]
  assert not {"what colour are the largest objects?", "what colour are most objects?"} & dict(
      scenes.questions(scene)).keys(), "there are two answers"


def test_a_scene_that_is_moved_keeps_its_boxes_and_what_is_said_of_no_side(source):
  scene = next(scenes.read(str(source), "dev"))
  rng = np.random.default_rng(1)
  moved = [scenes.moved(scene, rng) for _ in range(40)]
  assert len({one.pixels.tobytes() for one in moved}) == 12, "six orders, mirrored or not"
  for one in moved:
    boxes = [box[:, ::-1] if one.flipped else box for box in one.boxes]
    assert sorted(box.tobytes() for box in boxes) == sorted(box.tobytes() for box in scene.boxes)
    assert scenes.sentence(one) == (None if one.flipped else ("there is a box on the left.", "true"))
