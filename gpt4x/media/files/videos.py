"""Video files: MP4 and WebM with their sound by av, and GIF by Pillow alone."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
import io
import itertools
import math
import os
from typing import NamedTuple

import numpy as np

from gpt4x import storage
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media.conform import to_channels
from gpt4x.media.files import content, images, sounds
from gpt4x.media.medium import Audio, Video

_Timed = tuple[float, np.ndarray, float]  # Seconds from the first frame, pixels, seconds that it is shown.


def read(path: str | os.PathLike, fps: float | None = None, seconds: float | None = None, stream: int = 0,
         change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels, sound: bool = True,
         threads: bool = True) -> Video:
  """The frames of a video file, and its sound.

  Args:
    path: the file.
    fps: frame k is what is shown at k / fps seconds, by the timestamps in the file. None: each frame once, and their
      number a second on the average.
    seconds: only the first so many.
    stream: which of several video streams, from 0.
    change: what is made of the pixels of each frame that is kept, such as a smaller size.
    sound: whether the sound is read.
    threads: whether frames are decoded in parallel, which changes none.
  """
  path = os.fspath(path)
  data, name = content.read(path, "video")
  with content.decoding(path, "video"):
    if name == "GIF":
      return Video(*_chosen(_gif_frames(data), fps, seconds, change))
    av = content.library("av", path, name or "this file")
    with av.open(io.BytesIO(data)) as container:
      streams = container.streams.video
      if not streams:
        raise UserError(f"{shown(path)} has no pictures, only sound: give it as audio, or name a video")
      if stream >= len(streams):
        raise UserError(f"{shown(path)} has {len(streams)} video stream(s), and {stream} is none of them: count from 0")
      streams[stream].thread_type = "AUTO" if threads else "NONE"
      frames, rate = _chosen(_frames(container, streams[stream]), fps, seconds, change)
    return Video(frames, rate, _sound(av, data, seconds, stream) if sound else None)


def _chosen(timed: Iterable[_Timed], fps: float | None, seconds: float | None,
            change: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, float]:
  """(frames, how many a second)."""
  frames, end = list[np.ndarray](), 0.0
  last: np.ndarray | None = None

  def repeat_until(time: float) -> None:
    """Shows the last frame until another comes. Times are rounded, in a GIF to hundredths of a second."""
    if fps and last is not None:
      wanted = math.ceil((time - min(0.006, 0.25 / fps)) * fps)
      frames.extend([change(last)] * (wanted - len(frames)) if wanted > len(frames) else [])

  for time, pixels, duration in timed:
    if seconds is not None and last is not None and time > seconds - 0.001:
      break
    repeat_until(time)
    last, end = pixels, time + duration
    if not fps:
      frames.append(change(last))
  if last is None:
    raise ValueError("it has no frames")
  repeat_until(min(end, end if seconds is None else seconds))
  frames = frames or [change(last)]
  if len({frame.shape for frame in frames}) > 1:
    raise ValueError("its frames are of several sizes")
  return np.stack(frames), float(fps or (round(len(frames) / end, 6) if end > 0 else 1.0))


def _frames(container, stream) -> Iterator[_Timed]:
  """Frames in the order of their times; the decoder is flushed at the end."""
  rate, start = float(stream.average_rate or stream.guessed_rate or 25), 0.0
  for number, frame in enumerate(container.decode(stream)):
    time = frame.time if frame.time is not None else number / rate
    start = time if not number else start
    pixels = frame.to_ndarray(format="gray" if frame.format.name.startswith("gray") else "rgb24")
    turned = round(getattr(frame, "rotation", 0) / 90) % 4  # As a phone held it.
    yield time - start, np.rot90(pixels.reshape(*pixels.shape[:2], -1), turned), _duration(frame, rate)


def _duration(frame, rate: float) -> float:
  ticks = getattr(frame, "duration", 0) or 0
  return float(ticks * frame.time_base) if ticks and frame.time_base else 1 / rate


def _gif_frames(data: bytes) -> Iterator[_Timed]:
  import PIL.Image
  import PIL.ImageSequence

  time = 0.0
  with PIL.Image.open(io.BytesIO(data), formats=["GIF"]) as opened:
    for frame in PIL.ImageSequence.Iterator(opened):
      duration = (frame.info.get("duration") or 100) / 1000  # What browsers take for none.
      yield time, images.pixels_of(frame.convert("RGBA")), duration
      time += duration


def read_sound(path: str | os.PathLike, seconds: float | None = None, stream: int = 0) -> Audio | None:
  """The sound of a video file from its first frame on; None if it has none."""
  path = os.fspath(path)
  data, name = content.read(path, "video")
  if name == "GIF":
    return None
  av = content.library("av", path, name or "this file")
  with content.decoding(path, "video"):
    return _sound(av, data, seconds, stream)


def _sound(av, data: bytes, seconds: float | None, stream: int) -> Audio | None:
  with av.open(io.BytesIO(data)) as container:  # Streams may begin at different times.
    first = next(container.decode(container.streams.video[stream]), None)
    start = float(first.time or 0) if first else 0.0
  with av.open(io.BytesIO(data)) as container:
    if not container.streams.audio:
      return None
    most = None if seconds is None else start + seconds
    samples, rate, begins = sounds.decode_stream(av, container, container.streams.audio[0], most)
  offset, samples = round((begins - start) * rate), sounds.to_int16(samples)
  samples = samples[-offset:] if offset < 0 else np.pad(samples, (offset, 0))
  return Audio(samples[:None if seconds is None else round(seconds * rate)], rate)


def write(video: Video, path: str | os.PathLike) -> None:
  """Writes a video as MP4 (H.264 and AAC), as WebM (VP9 and Opus), or as GIF, which has no sound."""
  target = storage.path(path)
  suffix = target.suffix.lower()
  if suffix not in (".gif", *_CONTAINERS):
    raise UserError(f"cannot write a video to {shown(os.fspath(path))}: end the name in .gif, .mp4 or .webm")
  if suffix == ".gif":
    data = _gif(video)
  else:
    data = _encoded(content.library("av", os.fspath(path), _CONTAINERS[suffix].name), video, _CONTAINERS[suffix])
  storage.make_directory(target.parent)
  storage.write(target, data)


def _gif(video: Video) -> bytes:
  import PIL.Image

  frames = [PIL.Image.fromarray(frame) for frame in to_channels(video.frames, 3)]
  ends = [round(100 * k / video.fps) * 10 for k in range(len(frames) + 1)]  # A GIF's times are hundredths of a second.
  buffer = io.BytesIO()
  frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0,
                 duration=[max(10, end - begin) for begin, end in itertools.pairwise(ends)])
  return buffer.getvalue()


class _Container(NamedTuple):
  name: str
  codec: str
  options: dict[str, str]
  sound: str
  rates: tuple[int, ...]  # That the codec of sounds takes.


_CONTAINERS = {
    ".mp4": _Container("MP4", "libx264", {"crf": "18"}, "aac",
                       (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)),
    ".webm": _Container("WebM", "libvpx-vp9", {"crf": "20", "b": "0"}, "libopus", (8000, 12000, 16000, 24000, 48000)),
}


def _encoded(av, video: Video, how: _Container) -> bytes:
  buffer, frames = io.BytesIO(), to_channels(video.frames, 3)
  height, width = frames.shape[1:3]
  with av.open(buffer, "w", format=how.name.lower()) as container:
    stream = container.add_stream(how.codec, rate=Fraction(video.fps).limit_denominator(10_000))
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"  # Which halves both sides, and all can play.
    stream.options = how.options
    audio = video.sound if video.sound and len(video.sound.samples) else None
    sound = container.add_stream(how.sound, rate=_rate(audio.rate, how.rates), layout="mono") if audio else None
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
    if audio and sound:
      audio = sounds.resample(audio, sound.rate)
      block = av.AudioFrame.from_ndarray(audio.samples[None], format="s16", layout="mono")
      block.rate, block.pts = audio.rate, 0
      container.mux(sound.encode(block))
      container.mux(sound.encode(None))
  return buffer.getvalue()


def _rate(rate: int, known: tuple[int, ...]) -> int:
  """The lowest of the known rates that loses nothing."""
  return next((one for one in known if one >= rate), known[-1])


def resize(video: Video, height: int, width: int) -> Video:
  """A video whose frames have another size, antialiased."""
  frames = np.stack([images.resize(frame, height, width) for frame in video.frames])
  return Video(frames, video.fps, video.sound)
