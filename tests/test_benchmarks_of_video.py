"""The videos that benchmarks/media makes, and how it measures motion."""

from collections import Counter
import gzip
import itertools
import json

import numpy as np
import pytest

from benchmarks.media import moving
from gpt4x.media.files import videos

MOTIONS = [*itertools.product(moving.DIRECTIONS, moving.SPEEDS)]


def garment(seed: int = 0) -> np.ndarray:
  """Something uneven of 28 x 28, brighter at its left."""
  noise = np.random.default_rng(seed).integers(0, 60, (28, 28))
  return np.clip(noise + np.linspace(190, 0, 28), 0, 255).astype(np.uint8)


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "fashion-mnist"
  folder.mkdir()
  for name in ("train", "t10k"):
    pixels = np.stack([garment(i + 100 * (name == "t10k")) for i in range(4)])
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([9, 1, 0, 6])))
  return tmp_path


@pytest.mark.parametrize("direction, speed", MOTIONS)
def test_the_motion_that_was_made_is_the_one_that_is_measured(direction, speed):
  pixels = {"slowly": 2, "fast": 4}[speed]
  down, across = {"left": (0, -pixels), "right": (0, pixels), "up": (-pixels, 0), "down": (pixels, 0)}[direction]
  frames = moving.moving(garment(), direction, speed, (23, 1), 5)  # It is across two edges of the frame.
  np.testing.assert_array_equal(frames[3], np.roll(frames[2], (down, across), (0, 1)))
  assert moving.shift(frames) == (down, across)
  noisy = frames + np.random.default_rng(0).normal(0, 30, frames.shape)
  assert moving.motion(noisy) == (direction, speed)
  patches = frames.reshape(5, 6, 4, 6, 4).mean((2, 4), keepdims=True)  # Their edges do not move.
  coarse = np.broadcast_to(patches, (5, 6, 4, 6, 4)).reshape(frames.shape)
  assert moving.motion(coarse) == (direction, speed)


@pytest.mark.parametrize("by", [(0, 0), (3, 0), (2, 2), (-1, 5)])
def test_another_motion_has_no_name(by):
  frame = moving.moving(garment(), "up", "fast", (2, 2), 1)[0]
  frames = np.stack([np.roll(frame, np.multiply(by, i), (0, 1)) for i in range(4)])
  assert moving.shift(frames) == by and moving.motion(frames) is None


def test_clips_show_all_images_but_shirts_as_often_and_move_as_they_say(source):
  found = list(moving.clips(source, "train", 60, 4, mirror=True))
  assert Counter(clip.garment for clip in found) == {"boot": 20, "trouser": 20, "t-shirt": 20}
  assert all(moving.motion(clip.frames) == (clip.direction, clip.speed) for clip in found)
  assert {(clip.direction, clip.speed) for clip in found} == set(MOTIONS)
  leftward = [clip.frames[0].mean(0)[:12].mean() > clip.frames[0].mean(0)[12:].mean() for clip in found]
  assert 10 < sum(leftward) < 50  # Brighter at the left as they are, at the right where they are mirrored.
  again, other = (list(moving.clips(source, "train", 3, 4, seed, mirror=True)) for seed in (0, 1))
  assert all(np.array_equal(one.frames, two.frames) for one, two in zip(found, again))
  assert not all(np.array_equal(one.frames, two.frames) for one, two in zip(found, other))


def test_files_have_the_very_frames_and_an_exact_caption(source, tmp_path):
  some = list(moving.clips(source, "test", 3, 5))
  lines = moving.write(tmp_path, "test", some)
  records = [json.loads(line) for line in lines.read_text().splitlines()]
  assert [record["text"] for record in records] == [
      f"a {clip.garment} moves {clip.direction} {clip.speed}" for clip in some]
  for clip, record in zip(some, records):
    read = videos.read(tmp_path / record["video"]).frames
    np.testing.assert_array_equal(read[..., 0], clip.frames)
