"""Files by a glob pattern, whatever links there are among the folders."""

from collections.abc import Iterator
import glob
import os
import re
import sys

from gpt4x.data.text_files import shown
from gpt4x.errors import UserError


def matches(pattern: str) -> list[str]:
  """The files that a pattern matches, in order of their names; `**` stands for folders of any depth."""
  return sorted({path for path in _matches(os.path.expanduser(pattern), "") if os.path.isfile(path)})


def _matches(pattern: str, base: str) -> Iterator[str]:
  """As `glob.iglob`, which would follow a circle of links under `**` through all its rounds."""
  head, stars, tail = re.fullmatch(r"(.*?)(?:(?<![^/])(\*\*)(?:/+(.*))?)?", pattern, re.DOTALL).groups()  # type: ignore
  found = glob.iglob(os.path.join(glob.escape(base), head)) if head else [base]
  if not stars:
    yield from found
    return
  for start in found:
    for folder in _folders(start):
      yield from _matches(tail or "*", folder)


def _folders(start: str) -> Iterator[str]:
  """`start` and all folders below that are not hidden, each real one once."""
  seen, ahead = set[tuple[int, int]](), [start]
  while ahead:
    folder = ahead.pop()
    try:
      stat = os.stat(folder or ".")
      if (stat.st_dev, stat.st_ino) in seen:
        continue
      seen.add((stat.st_dev, stat.st_ino))
      with os.scandir(folder or ".") as entries:
        names = sorted((entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry)), reverse=True)
    except NotADirectoryError:
      continue
    except OSError as error:
      print(f"gpt4x: warning: left out folder {shown(folder)}, which cannot be read ({error.strerror})",
            file=sys.stderr)
      continue
    yield folder
    ahead += [os.path.join(folder, name) for name in names]


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False


def no_match(parameter: str, pattern: str) -> UserError:
  """The error for a pattern without files, which says so if a folder on the way cannot be read."""
  folder = ""
  for part in re.findall(r"/+|[^/]+", os.path.expanduser(pattern)):
    if glob.has_magic(part):
      break
    folder += part
    try:
      if os.path.isdir(folder):
        os.scandir(folder).close()
    except OSError as error:
      return UserError(f"{parameter} = {pattern!r}: folder {shown(folder)} cannot be read"
                       f" ({error.strerror}): change its permissions, or name another")
  return UserError(f"{parameter} = {pattern!r} matches no file (looked from {os.getcwd()})")
