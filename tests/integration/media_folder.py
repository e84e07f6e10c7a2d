"""A folder of small media, and JSON lines about them, as a user has it."""

import json
import pathlib

import numpy as np

from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image, Video

COUNT = 24


def write(folder: pathlib.Path) -> None:
  """Writes images of 28 x 28 pixels, sounds of half a second and videos of 9 frames, each kind also called by another
  name, and documents of all."""
  draw, every = np.random.default_rng(0), list[str]()
  bytes_of = lambda *shape: draw.integers(0, 256, shape, np.uint8)
  for kind, name, suffix, make, save in (
      ("images", "image", "png", lambda: Image(bytes_of(28, 28, 1)), images.write),
      ("sounds", "audio", "wav", lambda: Audio(draw.integers(-999, 999, 4000, np.int16), 8000), sounds.write),
      ("videos", "video", "gif", lambda: Video(bytes_of(9, 32, 32, 1), 10.0), videos.write)):
    (folder / kind).mkdir()
    lines = []
    for number in range(COUNT):
      save(make(), folder / kind / f"{number}.{suffix}")
      lines.append({name: f"{number}.{suffix}", "text": f"{kind} {number % 3}"})
    (folder / kind / "lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    every += [json.dumps(line | {name: f"../{kind}/{line[name]}"}) for line in lines if name != "video"]
  (folder / "pictures").symlink_to("images")
  (folder / "media").mkdir()
  (folder / "media" / "lines.jsonl").write_text("\n".join(every))
