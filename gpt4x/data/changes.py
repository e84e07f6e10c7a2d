"""Why a run has other data than its checkpoint, as far as the data directory knows."""

from collections.abc import Iterable, Mapping, Sequence
import json
import pathlib
from typing import Any

from gpt4x.data import data_dir, prepared
from gpt4x.data.text_files import shown

FILES = "files.json"  # In a token store: path, size and modification time of each file that it was made from.

Facts = Mapping[str, Any]  # Of a task's split: its `content`, a hash, and numbers such as `documents`.


def changes(saved: Mapping[str, Facts] | None, now: Mapping[str, Facts]) -> str:
  """What differs between the splits ("task/split") of a checkpoint and those of this run, in a few words.

  An earlier version's checkpoint says nothing of its splits: None.
  """
  if saved is None:
    return f"of {', '.join(sorted(now))}"
  found = []
  for name in sorted({*saved, *now}):
    before, after = saved.get(name), now.get(name)
    if before is None or after is None:
      found.append(f"{name} {'is new' if before is None else 'is left out'}")
    elif before["content"] != after["content"]:
      counts = [f"{before[what]:,} {what}, now {after[what]:,}" for what in sorted(after.keys() & before.keys())
                if what != "content" and before[what] != after[what]]
      files = _changed(_files(name, before["content"]), _files(name, after["content"]))
      found.append(f"{name} has changed{': ' if counts or files else ''}{'; '.join([*counts, *files])}")
  return ", ".join(found)


def _files(name: str, content: str) -> list[Sequence[Any]]:
  """The files behind some content of a split, if it is still in the data directory."""
  for spec in [*data_dir().glob(f"tokens/*/{prepared.SPEC}"), *data_dir().glob("content/*")]:
    found = prepared.read_json(spec)
    if (found.get("name"), found.get("content")) == (name, content):
      return found.get("files") or prepared.read_json(spec.with_name(FILES)).get("files", [])
  return []


def _changed(before: Iterable[Sequence[Any]], after: Iterable[Sequence[Any]]) -> list[str]:
  old, new = {path: stat for path, *stat in before}, {path: stat for path, *stat in after}
  if not old or not new:
    return []
  kinds = {"new": sorted(new.keys() - old.keys()), "gone": sorted(old.keys() - new.keys()),
           "written": sorted(path for path in old.keys() & new.keys() if old[path] != new[path])}
  return [f"{shown(paths[0])} is {kind}" + (f", as are {len(paths) - 1:,} more" if len(paths) > 1 else "")
          for kind, paths in kinds.items() if paths]


def write_files(folder: pathlib.Path, files: Sequence[Sequence[Any]]) -> None:
  """Puts the files that a token store is made from beside its tokens, if they are known."""
  if files:
    (folder / FILES).write_text(json.dumps({"files": files}))
