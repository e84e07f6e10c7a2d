"""Models that an objective is given and never changes: where they lie, that they stay the same, and their parameters.

A checkpoint of a run names each by its directory, its step and the checksum of its parameters, and holds none of it.
"""

from collections.abc import Mapping
import sys
from typing import Any

import jax

from gpt4x import storage
from gpt4x.checkpoints.reader import Reader
from gpt4x.errors import UserError
from gpt4x.models.saved_model import SavedModel
from gpt4x.partitioning import Partitioner

Reference = tuple[str, int, str]  # Directory, step, and the SHA-256 of what integrity.py knows of the parameters.


def find(models: Mapping[str, SavedModel], known: Mapping[str, Reference], strict: bool = True) -> dict[str, Reference]:
  """The checkpoint of each model: the one that a run has had, as `known` names it, or else the newest.

  Raises:
    UserError: if there is none; or, if `strict`, one with other parameters than the run has had, wherever they lie.
  """
  found = {}
  for name, one in models.items():
    reader, (directory, step, checksum) = Reader(one.directory), known.get(name, ("", None, None))
    wanted = step if one.step is None and step in reader.steps() else one.step
    there, own = reader.params_checksum(wanted)
    if checksum not in (None, own):
      changed = (f"{one.parameter} = {one.directory!r} has other parameters at step {there} than this run has had, from"
                 f" step {step} of {directory}")
      if strict:
        raise UserError(f"{changed}: give it the directory where those lie now, or start in a new model directory")
      if jax.process_index() == 0:
        print(f"gpt4x: warning: {changed}", file=sys.stderr)
    place = one.directory if storage.is_remote(one.directory) else str(storage.path(one.directory).resolve())
    found[name] = place, there, own
  return found


def shapes(models: Mapping[str, SavedModel], partitioner: Partitioner) -> dict[str, Any]:
  """The parameters of each model as ShapeDtypeStructs with their shardings."""
  return {name: one.cast(partitioner.place(*one.model.declared)) for name, one in models.items()}


def load(models: Mapping[str, SavedModel], references: Mapping[str, Reference],
         partitioner: Partitioner) -> dict[str, Any]:
  """The parameters of each model, on the mesh."""
  found = {}
  for name, one in models.items():
    directory, step, _ = references[name]
    placed = partitioner.place(*one.model.declared)
    _, params = Reader(directory).restore_params(placed, step)
    found[name] = jax.jit(one.cast, donate_argnums=0, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, placed))(
        params)
  return found
