"""Prepared data in a bucket, `$GPT4X_DATA_DIR` of several machines: made by one, copied by each that reads it.

`tokens/NAME/` has a record, which is the `spec.json` of a token store, and the store's other files in a folder that is
called as their hash. The record is written last, and never over another: nobody reads what was not uploaded whole, and
of machines that make the same at once, the first one counts. `content/NAME` is a note.
"""

from collections.abc import Iterable, Mapping
import contextlib
import datetime
import json
import pathlib
import time
from typing import Any, NamedTuple

from gpt4x import storage
from gpt4x.data import shared_dir
from gpt4x.errors import UserError

RECORD = "spec.json"
_USED = "used"  # An empty object that is written anew by use, though not at each.
_DAY = 24 * 3600.0  # Seconds.


def place(path: pathlib.Path) -> pathlib.Path | None:
  """Where the bucket keeps what is called `path` in the data directory of this machine; None without a bucket."""
  shared = shared_dir()
  return shared / path.parent.name / path.name if shared else None


def publish(folder: pathlib.Path, files: Iterable[str], there: pathlib.Path) -> None:
  """Uploads the files of a token store and its record, unless there is one of that name by now."""
  if storage.read(there / RECORD) is not None:
    return
  record = (folder / RECORD).read_bytes()
  content = json.loads(record)["content"]
  for file in files:
    storage.upload(folder / file, there / content / file)
  if not storage.create_exclusively(there / RECORD, record) and content_of(storage.read(there / RECORD)) != content:
    _delete(there / content)


def content_of(record: bytes | None) -> str | None:
  """The hash in a record; None if there is no such record, or it is damaged."""
  with contextlib.suppress(ValueError, LookupError, TypeError):
    return str(json.loads(record or b"")["content"])
  return None


class Entry(NamedTuple):
  """What the bucket has under a name; the kind is "tokens" or "content", the rest as in `prepared.Prepared`."""

  kind: str
  name: str
  what: str
  size: int
  made: float
  used: float


def entries() -> list[Entry]:
  """All that is prepared in the bucket, by name."""
  if (shared := shared_dir()) is None:
    return []
  grouped = dict[tuple[str, str], dict[str, Mapping[str, Any]]]()
  start = len(str(shared).partition("://")[2]) + 1
  with storage.errors(shared), contextlib.suppress(FileNotFoundError):
    for path, info in storage.file_system(shared).find(str(shared), detail=True).items():
      kind, _, rest = path[start:].partition("/")
      if kind in ("tokens", "content") and rest:
        name, _, file = rest.partition("/")
        grouped.setdefault((kind, name), {})[file] = info
  return [_entry(shared, kind, name, files) for (kind, name), files in sorted(grouped.items())]


def _entry(shared: pathlib.Path, kind: str, name: str, files: Mapping[str, Mapping[str, Any]]) -> Entry:
  where = shared / kind / name
  record = _json(storage.read(where if kind == "content" else where / RECORD))
  what = "unfinished" if kind == "tokens" and RECORD not in files else str(record.get("name", "unknown"))
  made = max((_time(info) for file, info in files.items() if file != _USED), default=0.0)
  used = _time(files[_USED]) if _USED in files else made
  return Entry(kind, name, what, sum(int(info["size"]) for info in files.values()), made, max(made, used))


def made(there: pathlib.Path) -> float:
  """When a token store was made, in seconds since the epoch."""
  with storage.errors(there):
    return _time(storage.file_system(there).info(str(there / RECORD)))


def _time(info: Mapping[str, Any]) -> float:
  found = info.get("LastModified") or info["updated"]  # Of S3 and of Google.
  return (found if isinstance(found, datetime.datetime) else datetime.datetime.fromisoformat(found)).timestamp()


def note_use(there: pathlib.Path) -> None:
  """Writes down, at most once a day, that a token store was used, if this account may write there."""
  with contextlib.suppress(UserError, FileNotFoundError):
    try:
      with storage.errors(there):
        last = _time(storage.file_system(there).info(str(there / _USED)))
    except FileNotFoundError:
      last = made(there)  # If there is none any more, nothing is to be noted.
    if time.time() - last > _DAY:
      storage.write(there / _USED, b"")


def remove(there: pathlib.Path) -> None:
  """Removes what is prepared; first what makes it count."""
  if there.parent.name == "tokens":
    _delete(there / RECORD)
  _delete(there)


def _delete(path: pathlib.Path) -> None:
  with storage.errors(path), contextlib.suppress(FileNotFoundError):
    storage.file_system(path).rm(str(path), recursive=True)


def read_note(there: pathlib.Path) -> dict[str, Any]:
  """The object in a small file of JSON; an empty one if there is none."""
  return _json(storage.read(there))


def _json(content: bytes | None) -> dict[str, Any]:
  with contextlib.suppress(ValueError, RecursionError):
    if isinstance(found := json.loads(content or b""), dict):
      return found
  return {}
