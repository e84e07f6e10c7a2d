"""Files that are damaged anywhere are read, or told of in one line; nothing else is raised."""

import random

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image, Video
from tests.media.tiny_files import grey_frames, tone

MEDIA = {
    images: (Image(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)), ["png", "jpg", "webp", "gif"]),
    sounds: (Audio(tone(440), 8000), ["wav", "flac"]),
    videos: (Video(grey_frames(6), 10, Audio(tone(440), 8000)), ["mp4", "webm", "gif"]),
}


@pytest.mark.parametrize("files, suffix", [(files, suffix) for files, (_, some) in MEDIA.items() for suffix in some])
def test_damage(tmp_path, files, suffix):
  path, chance, told = tmp_path / f"a.{suffix}", random.Random(0), 0
  files.write(MEDIA[files][0], path)
  whole = path.read_bytes()
  for _ in range(40):
    content = bytearray(whole)
    for _ in range(chance.choice([1, 2, 10])):
      place = chance.randrange(min(len(content), chance.choice([64, 300, len(whole)])))
      if chance.random() < 0.7:
        content[place] = chance.randrange(256)
      else:
        content = content[:place + 1]
    path.write_bytes(content)
    try:
      files.read(path)
    except UserError as error:
      told += 1
      assert "\n" not in str(error) and str(path) in str(error)
  assert told
