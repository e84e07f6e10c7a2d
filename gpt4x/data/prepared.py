"""What lies in the data directory: which tokens, made and used when; removing them, and what died while it was made."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import datetime
import fnmatch
import glob
import json
import os
import pathlib
import re
import shutil
import time
from typing import Any, BinaryIO
import uuid

from gpt4x import storage
from gpt4x.data import data_dir, make_folder, share, shared
from gpt4x.errors import UserError

DAY = 24 * 3600.0  # Seconds.
_ABANDONED = 2 * DAY  # Since the last write to an unfinished folder of whose owner nothing is known.
_UNFINISHED = ".building"
TOKENS, OFFSETS, SPEC = "tokens.bin", "offsets.npy", shared.RECORD  # The files of a token store.
_USED = "used"  # An empty file beside the codes of media.
_OWNER = "owner.json"


def place(kind: str, task: str, split: str, key: str) -> pathlib.Path:
  """Where the data directory keeps what was prepared of a task's split: `kind` is "tokens" or "content"."""
  return data_dir() / kind / re.sub(r"[^\w.-]", "_", f"{task}-{split}-{key}")


def day_of(time_made: float) -> str:
  """The day of a time in seconds since the epoch."""
  return datetime.date.fromtimestamp(time_made).isoformat()


def remedy(path: pathlib.Path) -> str:
  """The command that removes one prepared thing."""
  return f"gpt4x cache --remove='{path.name}'"


def note_use(path: pathlib.Path) -> None:
  """Writes down that a store or a note was used, in the times of its file, which cost no lock."""
  if (there := shared.place(path)) and path.parent.name == "tokens":
    shared.note_use(there)
  with contextlib.suppress(OSError):  # Another user's, or read-only.
    if path.parent.name == "media":
      (path / _USED).touch()
    elif path.is_dir():  # The access time, set by hand since most file systems keep it only roughly.
      os.utime(path / TOKENS, ns=(time.time_ns(), (path / TOKENS).stat().st_mtime_ns))
    else:
      os.utime(path)


# What is made: beside its place under another name, so that it is there whole or not at all.


@contextlib.contextmanager
def unfinished(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder that is given the name `path` at the end, unless another process was first."""
  make_folder(path.parent)
  remove_abandoned(path.parent)
  # A folder of `tempfile` could not be shared.
  temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
  temporary.mkdir(mode=0o700)
  try:
    (temporary / _OWNER).write_text(json.dumps(_this_process()))
    yield temporary
    (temporary / _OWNER).unlink()
    for file in [*temporary.iterdir(), temporary]:
      share(file)
    try:
      temporary.rename(path)
    except OSError:
      if not path.exists():  # If it does, another process was first, with the same content.
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder of a user's own, which is given the name `path` at the end; a UserError if that is taken."""
  if path.exists():
    raise UserError(f"{path} is there already: choose another --output, or delete it")
  path.parent.mkdir(parents=True, exist_ok=True)
  remove_abandoned(path.parent, f"{glob.escape(path.name)}.*{_UNFINISHED}")
  temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
  temporary.mkdir()
  try:
    (temporary / _OWNER).write_text(json.dumps(_this_process()))
    yield temporary
    (temporary / _OWNER).unlink()
    temporary.rename(path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def on_disk(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file to be written, and puts it on the disk before the rename that makes it count."""
  with open(path, "wb", buffering=1 << 20) as file:
    yield file
    file.flush()
    os.fsync(file.fileno())


def remove_abandoned(folder: pathlib.Path, pattern: str = f"*{_UNFINISHED}") -> None:
  """Removes what those left that were killed while they made something in a folder."""
  for unfinished_one in folder.glob(pattern):
    if _is_abandoned(unfinished_one):
      shutil.rmtree(unfinished_one, ignore_errors=True)


def _this_process() -> dict[str, Any]:
  """The process, and the world in which its number is unique: a boot of a machine, and a container in it."""
  world = []
  with contextlib.suppress(OSError):
    world = [pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
  return {"world": world, "pid": os.getpid()}


def _is_abandoned(folder: pathlib.Path) -> bool:
  """Whether who made an unfinished folder is gone: for certain if it was in this world, else by the folder's age."""
  try:
    owner, here = json.loads((folder / _OWNER).read_text()), _this_process()
    if here["world"] and owner["world"] == here["world"]:
      os.kill(owner["pid"], 0)
  except ProcessLookupError:
    return True
  except (OSError, ValueError, LookupError, TypeError, OverflowError):  # Nothing is known of it.
    pass
  with contextlib.suppress(OSError):
    return time.time() - max(path.stat().st_mtime for path in [folder, *folder.iterdir()]) > _ABANDONED
  return False  # It went away meanwhile.


def write_note(path: pathlib.Path, note: Mapping[str, Any]) -> None:
  """Keeps a small JSON file in the data directory, if that can be written."""
  content = json.dumps({**note, "made": time.time()}).encode()
  with contextlib.suppress(OSError):
    make_folder(path.parent)
    storage.write(path, content)
    share(path)
  if there := shared.place(path):
    with contextlib.suppress(UserError):
      storage.write(there, content)


def read_note(path: pathlib.Path) -> dict[str, Any]:
  """The object in a note; an empty one if there is none."""
  there = shared.place(path)
  return shared.read_note(there) if there else read_json(path)


# What there is.


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A token store, a hash of a task's content, codes of media, or what is left of one that was not finished.

  Attributes:
    path: the folder or file, whose name `--remove` takes.
    what: the task and split, as far as it is known.
    size: in bytes.
    made, used: seconds since the epoch.
  """

  path: pathlib.Path
  what: str
  size: int
  made: float
  used: float


def find(pattern: str = "*", older_than: float = 0.0) -> list[Prepared]:
  """What is prepared, by name; of that, what has not been used for so many days."""
  found = dict[pathlib.Path, Prepared]()
  for path in [path for kind in ("tokens", "content", "media") for path in (data_dir() / kind).glob("*")]:
    with contextlib.suppress(OSError):  # Another process removed it.
      found[path] = _read(path)
  for one in shared.entries():  # In the place of their copies.
    path = data_dir() / one.kind / one.name
    found[path] = Prepared(path, one.what, one.size, one.made, one.used)
  return [one for path, one in sorted(found.items())
          if fnmatch.fnmatchcase(path.name, pattern) and time.time() - one.used >= older_than * DAY]


def _read(path: pathlib.Path) -> Prepared:
  stat = path.stat()
  if not path.is_dir():
    note = read_json(path)
    made = note.get("made", stat.st_mtime)
    return Prepared(path, str(note.get("name", "unknown")), stat.st_size, made, stat.st_mtime)
  files = {str(file.relative_to(path)): file.stat() for file in path.rglob("*") if file.is_file()}
  what = read_json(path / SPEC).get("name", "unfinished" if path.name.endswith(_UNFINISHED) else "unknown")
  made = max([file.st_mtime for name, file in files.items() if name != _USED] or [stat.st_mtime])
  used = max(made, files[TOKENS].st_atime if TOKENS in files else 0, files[_USED].st_mtime if _USED in files else 0)
  return Prepared(path, str(what), sum(file.st_size for file in files.values()), made, used)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file; an empty one if there is none."""
  with contextlib.suppress(OSError, ValueError, RecursionError):
    if isinstance(found := json.loads(path.read_text()), dict):
      return found
  return {}


def remove(one: Prepared) -> None:
  """Removes it, in one step for all others; processes that have the tokens open keep them."""
  if there := shared.place(one.path):
    shared.remove(there)
  if one.path.is_dir():
    remove_folder(one.path)
  else:
    one.path.unlink(missing_ok=True)


def remove_folder(path: pathlib.Path) -> None:
  """Removes a folder of this machine, in one step for all others."""
  hidden = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
  path.rename(hidden)
  shutil.rmtree(hidden)
