"""The objects of a bucket as a corpus: found by a pattern, and read from start to end.

A pattern means what it means on this machine (`file_patterns.py`): `*` stays within a folder, `**` stands for folders
of any depth, and neither finds names that begin with a dot.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import errno
import fnmatch
import glob
import io
import itertools
import os
from typing import Any

from gpt4x import storage
from gpt4x.errors import UserError

Stat = tuple[str, int, int | str]  # Path, size, and modification time or, in a bucket, a hash of the content.

_PIECE = 4 << 20  # Bytes of a request.
_AHEAD = 16  # Requests under way: a bucket answers after some 50 ms, however short the file.


def matches(parameter: str, pattern: str) -> list[Stat]:
  """The objects that a URL with a pattern matches; a UserError, which names the parameter, if there are none."""
  with contextlib.suppress(FileNotFoundError):
    if not glob.has_magic(pattern):
      return [stat(pattern)]
  bucket, *parts = pattern.partition("://")[2].split("/")
  plain = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
  depth = None if "**" in parts else len(parts) - len(plain)
  if glob.has_magic(bucket):
    raise UserError(f"{parameter} = {pattern!r}: a pattern cannot stand for buckets: write the name of one")
  try:
    with storage.errors(pattern):
      found = _files(pattern).find("/".join([bucket, *plain]), maxdepth=depth, detail=True)
      if not found:
        _files(pattern).ls(bucket)  # Which `find` may not say is missing.
  except FileNotFoundError as error:
    raise UserError(f"{parameter} = {pattern!r}: there is no bucket {_scheme(pattern)}{bucket}, or this account may not"
                    " see it: correct the URL") from error
  stats = [_stat(_scheme(pattern) + name, info) for name, info in found.items()
           if not name.endswith("/") and _fits(name.split("/")[1:], parts)]  # A console's empty folder ends with a /.
  if not stats:
    folder = _scheme(pattern) + "/".join([bucket, *plain])
    raise UserError(f"{parameter} = {pattern!r} matches no object ({len(found):,} below {folder}): correct the URL")
  return stats


def stat(url: str) -> Stat:
  """An object's size and the hash of its content; FileNotFoundError if there is none."""
  with storage.errors(url):
    info = _files(url).info(url)
  if info["type"] != "file":  # What is called like the beginning of others.
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
  return _stat(url, info)


def _files(url: str) -> Any:
  """The file system of a URL; a UserError for one that is unknown or not installed."""
  storage.path(url)
  return storage.file_system(url)


def _scheme(url: str) -> str:
  return url[:url.index("://") + 3]


def _stat(url: str, info: Mapping[str, Any]) -> Stat:
  # Of Google's hashes, a composed object has the second alone; its etag changes with each writing.
  version = next((str(info[name]) for name in ("md5Hash", "crc32c", "ETag", "etag") if info.get(name)), "")
  return url, int(info["size"]), version.strip('"')


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
  """Whether the parts of a name are those of a pattern."""
  if not pattern or not parts:
    return not pattern and not parts
  if pattern[0] != "**":
    return _fits_part(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
  folders = itertools.takewhile(lambda i: not i or parts[i - 1][:1] != ".", range(len(parts)))
  return any(_fits(parts[i:], pattern[1:] or ["*"]) for i in folders)


def _fits_part(part: str, pattern: str) -> bool:
  if not glob.has_magic(pattern):
    return part == pattern
  return (part[:1] != "." or pattern[:1] == ".") and fnmatch.fnmatchcase(part, pattern)


# Reading.


def opened(files: Iterable[Stat]) -> Iterator[tuple[str, io.BufferedReader | None]]:
  """Yields (path, what it holds, to be read before the next is asked for); None stands for a file of this machine."""
  files = list(files)
  ahead = _pieces(files)
  for path, size, _ in files:
    if not storage.is_remote(path):
      yield path, None
      continue
    mine = itertools.islice(ahead, _count(size))
    yield path, io.BufferedReader(_Pieces(mine), 1 << 16)
    collections.deque(mine, maxlen=0)  # What nobody wanted of it.


def content(url: str) -> Iterator[bytes]:
  """The content of one object, in pieces; FileNotFoundError if there is none."""
  for piece in _pieces([stat(url)]):
    yield piece.result()


def _count(size: int) -> int:
  return -(-size // _PIECE)


def _pieces(files: Iterable[Stat]) -> Iterator["futures.Future[bytes]"]:
  """The pieces of objects in order, which are on their way before they are asked for."""
  waiting, pool = collections.deque["futures.Future[bytes]"](), futures.ThreadPoolExecutor(_AHEAD, "bucket")
  try:
    for url, size, _ in files:
      for i in range(_count(size) if storage.is_remote(url) else 0):
        waiting.append(pool.submit(_get, url, i * _PIECE, min(size, (i + 1) * _PIECE)))
        if len(waiting) > _AHEAD:
          yield waiting.popleft()
    while waiting:
      yield waiting.popleft()
  finally:  # Which may run in the very thread that the requests need: nothing is waited for.
    pool.shutdown(wait=False, cancel_futures=True)


def _get(url: str, start: int, end: int) -> bytes:
  try:
    with storage.errors(url):
      data = storage.file_system(url).cat_file(url, start=start, end=end)
  except FileNotFoundError as error:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
  if len(data) != end - start:
    raise OSError(errno.ESTALE, "it was written while it was read", url)
  return data


class _Pieces(io.RawIOBase):
  """Pieces, one after another, as a file."""

  def __init__(self, pieces: Iterator["futures.Future[bytes]"]):
    self._pieces, self._left = pieces, memoryview(b"")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    if not self._left and (piece := next(self._pieces, None)) is not None:
      self._left = memoryview(piece.result())
    size = min(len(buffer), len(self._left))
    buffer[:size], self._left = self._left[:size], self._left[size:]
    return size
