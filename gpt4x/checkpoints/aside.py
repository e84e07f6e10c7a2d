"""Checkpoints that a run is not to continue from are set aside: renamed, never deleted."""

import itertools

from etils import epath
import jax

from gpt4x.launch import agreement


def set_aside(checkpoint: epath.Path, why: str) -> epath.Path:
  """Renames a checkpoint to STEP.<why>, with a number if there is one; every process of a run calls this."""
  names = (checkpoint.with_name(f"{checkpoint.name}.{why}{number or ''}") for number in itertools.count())
  aside = next(name for name in names if not name.exists())
  agreement.exchange("found")  # Until here another process may be reading it.
  if jax.process_index() == 0:
    checkpoint.rename(aside)
  agreement.exchange("set aside")
  return aside
