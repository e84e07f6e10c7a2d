"""Token stores of seqio tasks: made once by running the task, found again by its key."""

import array
import hashlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np

from gpt4x import storage
from gpt4x.data import changes, copies, prepared, shared, variable
from gpt4x.data.fingerprint import files_of, identify
from gpt4x.data.task_examples import errors_of, examples, say_once
from gpt4x.data.token_store import TokenStore
from gpt4x.errors import UserError

if TYPE_CHECKING:
  import seqio


def open_or_build(task: "seqio.Task", split: str) -> TokenStore:
  """The store of a task's split, made now unless there is one under the same key."""
  with errors_of(task, split):
    key, unseen = identify(task, split)
  path = prepared.place("tokens", task.name, split, key)
  try:
    copies.fetch(path)
    if path.exists():
      warn_of_old(f"the tokens of {task.name}/{split}", path, prepared.day_of(path.stat().st_mtime), unseen)
    else:
      if there := shared.place(path):
        storage.check_writable(there)
      print(f"tokenizing {task.name}/{split} into {there or path}", file=sys.stderr)  # Takes minutes a gigabyte.
      with prepared.unfinished(path) as folder:
        _write(task, split, folder)
        changes.write_files(folder, files_of(task, split))
        copies.publish(folder, path)
      copies.fetch(path)  # Another machine may have been first, with other tokens.
  except OSError as error:
    raise UserError(f"cannot write {path} ({error.strerror}): make room, or set {variable()} elsewhere") from error
  prepared.note_use(path)
  from gpt4x.data import vocabularies  # Which loads TensorFlow.

  vocabulary = task.output_features["targets"].vocabulary
  store = TokenStore(path, vocabulary.vocab_size, vocabularies.start_id(vocabulary))
  if store.name != f"{task.name}/{split}":  # The order of documents depends on it.
    raise store.damaged(f"it is called {store.name!r}")
  return store


def warn_of_old(what: str, path: pathlib.Path, day: str, unseen: str) -> None:
  """Says, once in a process, which prepared data is used, and how to make it anew, where no key can tell its age."""
  if unseen:
    say_once(f"gpt4x: using {what} made on {day}, which would not follow a change {unseen}: if there was one,"
             f" {prepared.remedy(path)}")


def _write(task: "seqio.Task", split: str, path: pathlib.Path) -> None:
  """Writes the files of a token store into the folder `path`."""
  vocab_size = task.output_features["targets"].vocabulary.vocab_size
  dtype = np.min_scalar_type(vocab_size - 1)
  offsets, longest, content = array.array("q", [0]), 0, hashlib.sha256()
  with prepared.on_disk(path / prepared.TOKENS) as file:
    for example in examples(task, split, shuffle=False, num_epochs=1, seed=0, try_in_mem_cache=False):
      tokens = example["targets"]
      if not tokens.size:
        continue
      if tokens.min() < 0 or tokens.max() >= vocab_size:
        outside = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
        raise UserError(f"task {task.name}, split {split}: token {outside} is outside its vocabulary of {vocab_size}:"
                        " check the task's preprocessors and vocabulary")
      data = tokens.astype(dtype).tobytes()
      file.write(data)
      content.update(data)
      offsets.append(offsets[-1] + tokens.size)
      longest = max(longest, tokens.size)
  if len(offsets) == 1:
    raise empty(task, split)
  with prepared.on_disk(path / prepared.OFFSETS) as file:
    np.save(file, np.frombuffer(offsets, np.int64))
  content.update(offsets)
  spec = {"name": f"{task.name}/{split}", "content": content.hexdigest()[:16], "dtype": dtype.name,
          "documents": len(offsets) - 1, "tokens": offsets[-1], "longest": longest}
  with prepared.on_disk(path / prepared.SPEC) as file:
    file.write(json.dumps(spec, indent=2).encode())


def empty(task: "seqio.Task | seqio.Mixture", split: str) -> UserError:
  return UserError(f"task {task.name}, split {split}: the corpus is empty: check the task's source and preprocessors")
