"""A file that lines are added to, which in a bucket nothing can be."""

import pathlib
import time

from gpt4x import storage

_PERIOD, _SHARE = 5.0, 50  # Seconds between uploads, which take at most a fiftieth of the time.


class GrowingFile:
  """Appends lines to a local file; keeps those of a file in a bucket, which `flush` uploads whole."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._kept: list[bytes] | None = [] if storage.is_remote(path) else None
    self._uploaded, self._last, self._took = 0, time.monotonic(), 0.0  # Lines; when the last upload ended, its seconds.

  def append(self, line: str) -> None:
    if self._kept is not None:
      self._kept.append(line.encode())
    else:
      with self._path.open("a") as file:
        file.write(line)

  def replace(self, content: bytes) -> None:
    """Gives the file another content."""
    storage.write(self._path, content)
    if self._kept is not None:
      self._kept, self._uploaded = [content], 1

  @property
  def is_due(self) -> bool:
    """Whether it is time to flush again: the longer an upload takes, the rarer they are."""
    return self._kept is not None and time.monotonic() - self._last > max(_PERIOD, _SHARE * self._took)

  def flush(self) -> None:
    if self._kept is not None and len(self._kept) > self._uploaded:
      start = time.monotonic()
      storage.write(self._path, b"".join(self._kept))
      self._uploaded, self._last = len(self._kept), time.monotonic()
      self._took = self._last - start
