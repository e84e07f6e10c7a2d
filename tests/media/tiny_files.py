"""Tiny media files, written by other means than the project's own."""

import io
import json
import pathlib
import struct

import numpy as np


def wav(path: pathlib.Path, samples: np.ndarray, rate: int = 8000, kind: int = 1, bits: int | None = None,
        before: bytes = b"", size: int | None = None, extensible: bool = False) -> None:
  """Writes what is given, [T] or [T, C], byte for byte; 24 bits are the lower ones of int32."""
  data, channels = samples.tobytes(), samples.shape[1] if samples.ndim > 1 else 1
  bits = bits or samples.itemsize * 8
  if bits == 24:
    data = samples.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
  form = struct.pack("<HHIIHH", 0xfffe if extensible else kind, channels, rate, rate * channels * bits // 8,
                     channels * bits // 8, bits)
  if extensible:
    form += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", kind) + bytes(14)
  size = len(data) if size is None else size
  body = (b"WAVEfmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", size) + data)
  path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def tone(hertz: float, rate: int = 8000, count: int = 2000) -> np.ndarray:
  """A sound int16 of one frequency."""
  return np.round(10_000 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)).astype(np.int16)


def frequency(samples: np.ndarray, rate: int) -> float:
  """The strongest one."""
  spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
  return float(np.argmax(spectrum) * rate / len(samples))


def grey_frames(count: int, size: int = 32) -> np.ndarray:
  """Frames [count, size, size, 3], each of another grey, from dark to bright."""
  return np.stack([np.full((size, size, 3), 20 + k * 200 // max(count - 1, 1), np.uint8) for k in range(count)])


def mp4(path: pathlib.Path, streams, fps: int = 25, sound: np.ndarray | None = None, pts=None, codec: str = "libx264",
        options=None) -> None:
  """Writes video streams, each frames [T, H, W, 3]; `pts` in thousandths of a second takes the place of `fps`."""
  from fractions import Fraction

  import av

  buffer = io.BytesIO()
  with av.open(buffer, "w", format=path.suffix[1:]) as container:
    made = []
    for frames in streams:
      stream = container.add_stream(codec, rate=fps)
      stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
      stream.options = options or {}
      if pts is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
      made.append(stream)
    audio = container.add_stream("aac", rate=8000, layout="mono") if sound is not None else None
    for stream, frames in zip(made, streams):
      for k, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if pts is not None:
          frame.pts, frame.time_base = pts[k], Fraction(1, 1000)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
    if audio is not None:
      block = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
      block.rate, block.pts = 8000, 0
      container.mux(audio.encode(block))
      container.mux(audio.encode(None))
  path.write_bytes(buffer.getvalue())


def json_lines(path: pathlib.Path, records) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def pngs(folder: pathlib.Path, count: int, size=(4, 6)) -> list[str]:
  """Writes grey images 0.png, 1.png, ..., of which k has pixels k; returns their names."""
  import PIL.Image

  folder.mkdir(parents=True, exist_ok=True)
  for k in range(count):
    PIL.Image.fromarray(np.full(size, k % 256, np.uint8)).save(folder / f"{k}.png")
  return [f"{k}.png" for k in range(count)]
