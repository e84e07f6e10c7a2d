"""Which media of this machine or of a bucket are read, and how: gin's `LocalMedia`."""

from collections.abc import Sequence
import dataclasses
from typing import Literal

import gin

from gpt4x.data import named_files
from gpt4x.data.objects import Stat
from gpt4x.errors import require, UserError

ON_BAD_RECORD = "LocalMedia.on_bad_record"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalMedia:
  """Which JSON-lines make the data, and how their media are read.

  Attributes:
    files: a glob, or several, of JSON-lines (`media/records.py`); `**` stands for folders of any depth.
    validation_files: globs of the validation split. Without them 5% of the records are held out, by a hash of the path
      of their first medium: all that is said of it is on one side, and no codec trains on a medium of theirs.
    order: of a medium and its caption in documents: 'media_first', 'text_first', or 'both', of which a hash decides.
    drop_condition: the share of training examples of local_text_to_media that lose their text, for guidance.
    on_bad_record: 'raise' ends a run at a record or a medium that cannot be read; 'skip' leaves it out and counts it.
    max_records: only the first so many records of each file.
    fps: the frames a second of videos; None: as many as there are.
    seconds: what counts of sounds and videos, from their beginning; None: all.
    stream: which video stream of a file that has several.
    size: (height, width) of the images and frames of local_image_bytes and local_video_bytes, which are scaled, in
      proportion, to cover it; the middle counts.
    channels: 1 for grey, 3 for RGB, for the same tasks.
    frames: the length of the examples of local_video_bytes. A longer video gives several.
    samples, rate: the length of the examples of local_audio_bytes, and their samples a second.
    resample: whether sounds of another rate are given this one; if not, they are an error.
    crop: images and frames are scaled to `crop` pixels more than `size`, and cut: in training anywhere, else in the
      middle.
    shift: in training, they are moved by up to so many pixels; their edges are repeated.
    flip: in training, whether half of them are mirrored.
  """
  files: str | Sequence[str] = ()
  validation_files: str | Sequence[str] = ()
  order: Literal["media_first", "text_first", "both"] = "media_first"
  drop_condition: float = 0.1
  on_bad_record: Literal["raise", "skip"] = "raise"
  max_records: int | None = None
  fps: float | None = None
  seconds: float | None = None
  stream: int = 0
  size: tuple[int, int] | None = None
  channels: int = 3
  frames: int | None = None
  samples: int | None = None
  rate: int = 8000
  resample: bool = False
  crop: int = 0
  shift: int = 0
  flip: bool = False

  def __post_init__(self):
    for name, known in (("order", ("media_first", "text_first", "both")), ("on_bad_record", ("raise", "skip"))):
      if getattr(self, name) not in known:
        raise UserError(f"LocalMedia.{name} = {getattr(self, name)!r} is unknown: use one of {', '.join(known)}")
    require(self, "from 0 up to 1", lambda value: 0 <= value <= 1, "drop_condition")
    require(self, "above 0", lambda value: value > 0, "max_records", "fps", "seconds", "frames", "samples", "rate")
    require(self, "at least 0", lambda value: value >= 0, "stream", "crop", "shift")
    require(self, "1 for grey or 3 for RGB", lambda value: value in (1, 3), "channels")
    require(self, "(height, width)", lambda value: len(value) == 2 and min(value) > 0, "size")

  def find(self) -> tuple[tuple[Stat, ...], tuple[Stat, ...]]:
    """The JSON-lines for training and those for validation, in order of their names."""
    return named_files.find(self, "JSON-lines", "pictures/*.jsonl")
