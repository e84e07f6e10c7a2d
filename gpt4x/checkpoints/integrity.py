"""The record of a checkpoint, which every file is checked against.

Orbax alone returns wrong numbers for a flipped bit in an array's bytes; checksums find it before anything is read. They
also tell damage, where an older checkpoint will do, from a store that cannot be reached, where the run has to end.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import hashlib
import json
import re
from typing import Any
import zlib

from etils import epath
import jax

from gpt4x import storage
from gpt4x.configuration import kinds
from gpt4x.errors import UserError
from gpt4x.launch import agreement

RECORD = "checkpoint.json"
_FIELDS = {"leaves": dict[str, tuple[str, list[int]]], "files": dict[str, tuple[int, int]],
           "data_state": dict[str, Any], "config": str, "seed": int}
_MAY_LACK = {"frozen": dict[str, tuple[str, int, str]]}  # As only a run with frozen models has it.


class Damaged(Exception):
  """A checkpoint whose files are not those that were written."""


def write_record(directory: epath.Path, record: Mapping[str, Any], folders: Sequence[str]) -> None:
  """Writes `record` with the size and CRC-32 of every file in `folders`, and its own CRC-32."""
  # Files at the top are left out: Orbax rewrites its own note there while committing, and nothing is read from it.
  paths = [path for folder in folders for path in storage.files_below(directory / folder)]
  with futures.ThreadPoolExecutor(8) as pool:
    entries = pool.map(storage.size_and_crc, paths)
    files = {str(path.relative_to(directory)): entry for path, entry in zip(paths, entries)}
  record = {**record, "files": files}
  with storage.errors(directory):
    (directory / RECORD).write_text(json.dumps({"crc32": _crc32_of_json(record), "record": record}))


def read_record(directory: epath.Path) -> dict[str, Any]:
  """Reads the record; raises Damaged if it is missing or has been altered."""
  try:
    with reading(directory / RECORD):
      content = json.loads((directory / RECORD).read_text())
      record = content["record"]
      if _crc32_of_json(record) != content["crc32"]:
        raise ValueError
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise Damaged(f"{RECORD} has been altered") from error
  # Whoever makes a record makes its checksum too.
  fields = _FIELDS | {name: kind for name, kind in _MAY_LACK.items() if name in record}
  if wrong := [name for name, kind in fields.items() if not kinds.fits(record.get(name), kind)]:
    raise Damaged(f"{RECORD} has no {wrong[0]} as a checkpoint has it")
  return record


def checksum(record: Mapping[str, Any], folder: str) -> str:
  """The SHA-256 of what a record says of the files in a folder: of copies it is the same."""
  files = {name: entry for name, entry in record["files"].items() if name.split("/")[0] == folder}
  return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def verify(path: epath.Path, files: Mapping[str, list[int]]) -> None:
  """Raises Damaged, on every process, if a file is not as it was written; each process reads its share."""
  def problem(name: str) -> str | None:
    with reading(path):
      try:
        size, crc = storage.size_and_crc(path / name)
      except FileNotFoundError:  # Not by `exists`, which takes what may not be read for missing.
        return f"{name} is missing"
    if size != files[name][0]:
      return f"{name} has {size} bytes of {files[name][0]}"
    return None if crc == files[name][1] else f"{name} has been altered"
  with futures.ThreadPoolExecutor(8) as pool:
    problems = list(filter(None, pool.map(problem, sorted(files)[jax.process_index()::jax.process_count()])))
  if problems := list(filter(None, agreement.exchange(problems[0] if problems else ""))):
    raise Damaged(problems[0])


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
  """Within it, a missing file raises Damaged; an error such as an unreachable store ends the run with UserError."""
  try:
    with storage.errors(path):
      yield
  except FileNotFoundError as error:
    raise Damaged(f"{epath.Path(error.filename or path).name} is missing") from error
  except OSError as error:
    raise UserError(f"checkpoint {path} cannot be read ({reason(error)}): mend that and start again") from error


def reason(error: BaseException) -> str:
  """The cause of an error in a few words; TensorStore and Orbax wrap the system's message in pages of text."""
  texts: list[str] = []
  cause: BaseException | None = error
  while cause is not None:
    texts.append(str(cause))
    cause = cause.__cause__ or cause.__context__
  known = re.search("No space left on device|File too large|Disk quota exceeded|Read-only file system"
                    "|Permission denied|Not a directory|Input/output error", "\n".join(texts))
  return known.group().lower() if known else " ".join(texts[0].split())[:200]


def _crc32_of_json(content: Any) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())
