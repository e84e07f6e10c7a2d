"""Checkpoints that a run is not to continue from are set aside: renamed, never deleted."""

import itertools

from etils import epath
import jax

from gpt4x import run_directory, storage
from gpt4x.launch import agreement


def set_aside(checkpoint: epath.Path, why: str) -> epath.Path:
  """Renames a checkpoint to STEP.<why>, with a number if there is one; every process of a run calls this."""
  names = (checkpoint.with_name(f"{checkpoint.name}.{why}{number or ''}") for number in itertools.count())
  with storage.errors(checkpoint):
    aside = next(name for name in names if not name.exists() or not run_directory.is_finished(name))
  agreement.exchange("found")  # Until here another process may be reading it.
  if jax.process_index() == 0:
    with storage.errors(checkpoint):
      if storage.is_remote(checkpoint):
        _move(checkpoint, aside)
      else:
        checkpoint.rename(aside)
  agreement.exchange("set aside")
  return aside


def _move(checkpoint: epath.Path, aside: epath.Path) -> None:
  """Renames in a bucket, file by file: at every moment one of the two is whole, and marked as finished."""
  files = storage.file_system(checkpoint)
  marker = checkpoint / run_directory.COMMITTED
  paths = [path for path in storage.files_below(checkpoint) if path != marker]
  for path in [*paths, marker]:
    files.cp_file(str(path), str(aside / path.relative_to(checkpoint)))
  for path in [marker, *paths]:
    files.rm_file(str(path))
