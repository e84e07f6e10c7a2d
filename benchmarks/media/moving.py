"""Moving Fashion-MNIST: a garment that crosses a small frame, with an exact caption; and how a video moves.

The frame is 24 x 24, the garment 20 x 20 and at first in the middle. It moves left, right, up or down by two pixels a
frame or four, leaves at one side and comes back at the other, so that it may go on for ever. Two of the ten garments
are left out, shirts and coats, which few pixels hardly tell from t-shirts and pullovers: videos are about motion.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib

import numpy as np

from benchmarks.media.data import CLASSES, fashion, write_records

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SPEEDS = {"slowly": 2, "fast": 4}  # Pixels a frame.
IMAGE, SIDE = 20, 24  # Pixels of a side, of the garment and of the frame.
START = ((SIDE - IMAGE) // 2,) * 2
GARMENTS = tuple(name for name in CLASSES if name not in ("shirt", "coat"))


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A video, uint8 [T, 24, 24], and what is to be said of it."""

  frames: np.ndarray
  garment: str
  direction: str
  speed: str

  @property
  def caption(self) -> str:
    return caption(self.garment, self.direction, self.speed)


def caption(garment: str, direction: str, speed: str) -> str:
  return f"a {garment} moves {direction} {speed}"


def moving(image: np.ndarray, direction: str, speed: str, start: tuple[int, int], frames: int) -> np.ndarray:
  """uint8 [frames, 24, 24] of a 28 x 28 image, made smaller; its upper left corner is at `start` in the first frame."""
  from PIL import Image
  canvas = np.zeros((SIDE, SIDE), np.uint8)
  canvas[:IMAGE, :IMAGE] = np.asarray(Image.fromarray(image).resize((IMAGE, IMAGE), Image.Resampling.BILINEAR))
  down, across = (SPEEDS[speed] * step for step in DIRECTIONS[direction])
  return np.stack([np.roll(canvas, (start[0] + down * frame, start[1] + across * frame), (0, 1))
                   for frame in range(frames)])


def clips(source: str, split: str, count: int, frames: int, seed: int = 0, mirror: bool = False) -> Iterator[Clip]:
  """Videos of a split's own images, each as often as any other; `mirror` shows half of them mirrored.

  An image is mirrored before it moves, so what is said of its motion stays true.
  """
  rng = np.random.default_rng(seed)
  pixels, labels = fashion(source, split)
  order = [which for which in rng.permutation(len(pixels)) if CLASSES[labels[which]] in GARMENTS]
  for number in range(count):
    which = order[number % len(order)]
    direction, speed = (str(rng.choice(list(names))) for names in (DIRECTIONS, SPEEDS))
    image = pixels[which][:, ::-1] if mirror and rng.integers(2) else pixels[which]
    yield Clip(moving(np.ascontiguousarray(image), direction, speed, START, frames),
               CLASSES[labels[which]], direction, speed)


def write(folder: pathlib.Path, name: str, some: Iterable[Clip], captions: bool = True) -> pathlib.Path:
  """GIFs, lossless for 256 greys, below folder/name, and their captions in folder/name.jsonl, which is returned."""
  from PIL import Image
  (folder / name).mkdir(parents=True)
  records = []
  for number, clip in enumerate(some):
    file = f"{name}/{number:05}.gif"
    first, *rest = [Image.fromarray(frame) for frame in clip.frames]
    first.save(folder / file, save_all=True, append_images=rest, duration=100, optimize=False, disposal=1)
    records.append({"video": file} | ({"text": clip.caption} if captions else {}))
  write_records(folder / f"{name}.jsonl", records)
  return folder / f"{name}.jsonl"


def shift(frames: np.ndarray) -> tuple[int, int]:
  """(down, across) in pixels a frame, of a video [T, H, W] whose content moves evenly and wraps.

  It is where the correlation of frames with the next ones, which wraps as well, is highest. The frames' means and fine
  detail are left out, as the edges of a codec's patches stay where they are. Phase correlation, which makes all
  waves equally loud, sees these edges: it is right for 49% of videos that were coded and decoded, this for all.
  """
  spectra = np.fft.fft2(frames.astype(np.float64))
  down, across = np.meshgrid(*(np.fft.fftfreq(side) * side for side in frames.shape[1:]), indexing="ij")
  crossed = np.sum(spectra[1:] * spectra[:-1].conj(), 0) * np.exp(-(down**2 + across**2) / 18)  # Three waves a frame.
  crossed[0, 0] = 0
  place = np.unravel_index(np.argmax(np.fft.ifft2(crossed).real), crossed.shape)
  steps = [int((where + side // 2) % side - side // 2) for where, side in zip(place, crossed.shape)]
  return steps[0], steps[1]


def motion(frames: np.ndarray) -> tuple[str, str] | None:
  """The direction and the speed that a video moves with; None if it is neither."""
  found = shift(frames)
  return next(((direction, speed) for direction, steps in DIRECTIONS.items() for speed, pixels in SPEEDS.items()
               if found == tuple(pixels * step for step in steps)), None)
