"""Sound files and their samples, [T] int16: WAV without any extra, FLAC and Ogg by soundfile, others by av."""

from fractions import Fraction
import io
import os
import struct

import numpy as np

from gpt4x import storage
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.media.files import content
from gpt4x.media.medium import Audio

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xfffe  # WAV's kinds of samples.


def read(path: str | os.PathLike, seconds: float | None = None) -> Audio:
  """The samples of a sound file, or the first seconds; several channels become their mean."""
  path = os.fspath(path)
  data, name = content.read(path, "audio")
  with content.decoding(path, "audio"):
    if name == "WAV":
      samples, rate = _read_wav(data)
    elif name in ("FLAC", "Ogg"):
      samples, rate = content.library("soundfile", path, name).read(io.BytesIO(data), dtype="float64", always_2d=True)
    else:
      samples, rate = _read_by_av(content.library("av", path, name or "this file"), data, seconds)
    if not len(samples):
      raise ValueError("it has no samples")
  return Audio(to_int16(samples[:None if seconds is None else max(1, round(seconds * rate))]), int(rate))


def decode_wav(data: bytes, name: str) -> Audio:
  """The samples of a WAV file's content; the name is for messages."""
  with content.decoding(name, "audio"):
    samples, rate = _read_wav(data)
    if not len(samples):
      raise ValueError("it has no samples")
  return Audio(to_int16(samples), int(rate))


def to_int16(samples: np.ndarray) -> np.ndarray:
  """Samples [T, C] from -1 to 1, as int16 [T]."""
  return np.clip(np.round(samples.mean(1) * 32768), -32768, 32767).astype(np.int16)


def _read_wav(data: bytes) -> tuple[np.ndarray, int]:
  """(samples [T, C] from -1 to 1, rate). A ValueError says what is wrong."""
  place, form = 12, b""
  while place + 8 <= len(data):
    kind, size = struct.unpack_from("<4sI", data, place)
    place += 8
    if kind == b"data":
      if size not in (0, 0xffffffff) and place + size > len(data):  # Both stand for "to the end", in a stream.
        raise ValueError(f"it ends after {len(data) - place:,} of {size:,} bytes of samples")
      return _samples(form, data[place:] if size in (0, 0xffffffff) else data[place:place + size])
    if kind == b"fmt ":
      form = data[place:place + size]
    place += size + size % 2
  raise ValueError("it has no samples")


def _samples(form: bytes, data: bytes) -> tuple[np.ndarray, int]:
  if len(form) < 16:
    raise ValueError("nothing says what its samples are")
  kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
  if kind == _EXTENSIBLE and len(form) >= 26:
    kind = struct.unpack_from("<H", form, 24)[0]
  width = bits // 8
  if not channels or not rate or (kind, bits) not in (
      (_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)):
    raise ValueError(f"samples of kind {kind} with {bits} bits, {channels} channels, {rate} a second")
  data = data[:len(data) // (width * channels) * width * channels]
  if kind == _FLOAT:
    samples = np.frombuffer(data, f"<f{width}").astype(np.float64)
  elif bits == 24:
    parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
    whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
    samples = (whole - ((whole >> 23) << 24)) / 2.0**23
  elif bits == 8:  # The only width without a sign.
    samples = (np.frombuffer(data, np.uint8) - 128.0) / 128
  else:
    samples = np.frombuffer(data, f"<i{width}") / 2.0**(bits - 1)
  if not np.isfinite(samples).all():
    raise ValueError("some samples are not finite")
  return samples.reshape(-1, channels), rate


def _read_by_av(av, data: bytes, seconds: float | None) -> tuple[np.ndarray, int]:
  with av.open(io.BytesIO(data)) as container:
    if not container.streams.audio:
      raise ValueError("it has no sound")
    samples, rate, _ = decode_stream(av, container, container.streams.audio[0], seconds)
    return samples, rate


def decode_stream(av, container, stream, seconds: float | None) -> tuple[np.ndarray, int, float]:
  """(samples [T, C] from -1 to 1, rate, the time of the first) of a stream of av; at least the first seconds of it."""
  resampler, blocks, start = av.AudioResampler(format="fltp"), list[np.ndarray](), 0.0
  for frame in container.decode(stream):  # Which flushes the decoder at the end.
    if not blocks:
      start = float(frame.time or 0)
    elif seconds is not None and float(frame.time or 0) > start + seconds + 0.1:
      break
    blocks += [one.to_ndarray() for one in resampler.resample(frame)]
  blocks += [one.to_ndarray() for one in resampler.resample(None)] if blocks else []
  samples = np.concatenate(blocks, 1).T if blocks else np.zeros((0, 1))
  return samples.astype(np.float64), stream.rate, start


def resample(audio: Audio, rate: int) -> Audio:
  """A sound at another rate, by a polyphase filter without aliases."""
  if audio.rate == rate:
    return audio
  from scipy import signal

  ratio = Fraction(rate, audio.rate)
  samples = signal.resample_poly(audio.samples.astype(np.float64), ratio.numerator, ratio.denominator)
  return Audio(np.clip(np.round(samples), -32768, 32767).astype(np.int16), rate)


def write(audio: Audio, path: str | os.PathLike) -> None:
  """Writes a sound as WAV of 16 bits, or as FLAC."""
  target, buffer = storage.path(path), io.BytesIO()
  suffix = target.suffix.lower()
  if suffix == ".wav":
    data = audio.samples.astype("<i2").tobytes()
    buffer.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, _PCM, 1, audio.rate,
                             2 * audio.rate, 2, 16, b"data", len(data)))
    buffer.write(data)
  elif suffix == ".flac":
    content.library("soundfile", os.fspath(path), "FLAC").write(
        buffer, audio.samples, audio.rate, format="FLAC", subtype="PCM_16")
  else:
    raise UserError(f"cannot write a sound to {shown(os.fspath(path))}: end the name in .wav or .flac")
  storage.make_directory(target.parent)
  storage.write(target, buffer.getvalue())


def fit(samples: np.ndarray, length: int) -> np.ndarray:
  """Samples with silence behind them, so that there are at least so many."""
  return np.pad(samples, (0, max(0, length - len(samples))))
