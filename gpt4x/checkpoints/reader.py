"""Reading checkpoints: which one, whether it is whole, and onto what."""

from collections.abc import Callable, Mapping, Sequence
import re
import sys
from typing import Any

from etils import epath
import jax

from gpt4x import run_directory, storage
from gpt4x.checkpoints import buckets, compatibility, integrity, layout
from gpt4x.checkpoints.integrity import Damaged
from gpt4x.checkpoints.layout import PyTree
from gpt4x.errors import UserError


class Reader:
  """The checkpoints of one model directory. In a run of several processes, every process makes the same calls."""

  _writes = False  # Whether the checkpoints are ours to rename, and no other run can be about to.

  def __init__(self, model_dir: str):
    self._model_dir = epath.Path(model_dir if storage.is_remote(model_dir) else storage.path(model_dir).resolve())
    if storage.is_remote(model_dir):
      buckets.prepare(model_dir)
    self._directory = self._model_dir / run_directory.CHECKPOINTS

  def steps(self) -> list[int]:
    """The steps with a finished checkpoint, rising."""
    try:
      with storage.errors(self._directory):
        return sorted(int(path.name) for path in self._directory.iterdir()
                      if re.fullmatch(r"0|[1-9]\d*", path.name) and run_directory.is_finished(path))
    except FileNotFoundError:
      return []
    except OSError as error:
      raise UserError(f"{self._directory} cannot be read ({integrity.reason(error)}): mend that first") from error

  def latest_step(self) -> int | None:
    return max(self.steps(), default=None)

  def restore(self, abstract_state: PyTree, step: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
    """Restores (step, state, data_state) onto the shardings of `abstract_state`; None if there is no checkpoint.

    Args:
      abstract_state: a pytree of `jax.ShapeDtypeStruct` with shardings. Leaves under `frozen` are returned as they are.
      step: the checkpoint to read. None: the newest that is whole; damaged ones newer than it are renamed
        `<step>.damaged` (if the directory is open for writing), with a warning.
    """
    return self._read_newest(lambda step, record: (
        step, self._read_arrays(step, abstract_state, record), record["data_state"]), step)

  def restore_params(self, abstract_params: PyTree, step: int | None = None) -> tuple[int, PyTree]:
    """Restores only the parameters: (step, params)."""
    return self._found(self._read_newest(lambda step, record: (
        step, self._read_arrays(step, {"params": abstract_params}, record, ["params"])["params"]), step))

  def param_shapes(self) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of the newest checkpoint, by name."""
    leaves = self._found(self._read_newest(lambda _, record: record["leaves"], None))
    return {name.removeprefix("params/"): tuple(shape) for name, (_, shape) in layout.of_item(leaves, "params").items()}

  def params_checksum(self, step: int | None = None) -> tuple[int, str]:
    """(step, checksum) of the parameters of a checkpoint, by which they are known again wherever they lie."""
    return self._found(self._read_newest(lambda step, record: (step, integrity.checksum(record, "params")), step))

  def frozen(self, step: int | None = None) -> dict[str, tuple[str, int, str]]:
    """What a checkpoint was trained with, as frozen_models.py refers to it; those of earlier versions name none."""
    found = self._read_newest(lambda _, record: record.get("frozen", {}), step) or {}
    return {name: tuple(reference) for name, reference in found.items()}

  def config_text(self, step: int | None = None) -> str:
    """The operative gin text saved with a checkpoint."""
    return self._found(self._read_newest(lambda _, record: record["config"], step))

  def check_seed(self, step: int, seed: int) -> None:
    """Raises UserError unless a checkpoint was saved with this random seed."""
    saved = self._read_newest(lambda _, record: record["seed"], step)
    if saved != seed:
      raise UserError(f"train.seed = {seed}, but {self._model_dir} was trained with {saved}: dropout would"
                      " change in midrun; set SEED back, or start in a new model directory")

  def _read_newest(self, read: Callable[[int, dict[str, Any]], Any], step: int | None) -> Any:
    """`read(step, record)` of the step asked for, or of the newest whole one; None if there is no checkpoint."""
    steps = self.steps()
    if step is not None and step not in steps:
      raise UserError(f"no checkpoint of step {step} in {self._directory}: the steps there are {steps}")
    damages: dict[int, Damaged] = {}
    for candidate in reversed(steps) if step is None else [step]:
      try:
        result = read(candidate, self._read_record(candidate))
      except Exception as error:
        if not self._writes and self.steps() != steps:
          return self._read_newest(read, step)  # A run writes here, and has retired what was about to be read.
        if not isinstance(error, Damaged):
          raise
        damages[candidate] = error
      else:
        for damaged in damages:
          self._pass_over(damaged, damages[damaged], candidate)
        return result
    if damages:
      raise self._nothing_whole(damages, step, steps) from list(damages.values())[-1]
    return None

  def _read_record(self, step: int) -> dict[str, Any]:
    record = integrity.read_record(self._directory / str(step))
    if (own := record.get("step", step)) != step:  # Earlier versions did not save it.
      raise UserError(f"{self._directory / str(step)} is a checkpoint of step {own} under another name: rename it to"
                      f" {own}, or move it out of {self._directory}")
    return record

  def _nothing_whole(self, damages: Mapping[int, Damaged], step: int | None, steps: Sequence[int]) -> UserError:
    if step is not None:
      retired = "" if self._writes else ", unless a run that writes there has just retired it"
      return UserError(f"checkpoint {self._directory / str(step)} is damaged ({damages[step]}){retired}: choose another"
                       f" step of {steps}")
    # All stay where they are, or a second start would take this for a new run. Who only reads is not told to move what
    # another may be using.
    remedy = "move the directory away to start anew" if self._writes else "read a copy of it, or another run"
    return UserError(f"every checkpoint in {self._directory} is damaged ("
                     + "; ".join(f"{step}: {reason}" for step, reason in damages.items()) + f"): {remedy}")

  def _pass_over(self, step: int, damage: Damaged, instead: int) -> None:
    """Tells of a damaged checkpoint; `Checkpoints` opened for writing sets it aside besides."""
    note = self._put_away(step)
    if jax.process_index() == 0:
      print(f"gpt4x: warning: checkpoint {self._directory / str(step)} is damaged ({damage}): using step"
            f" {instead}{note}", file=sys.stderr)

  def _put_away(self, step: int) -> str:
    """What to say of where a damaged checkpoint was put; readers change nothing."""
    return ""

  def _found(self, result: Any) -> Any:
    if result is None:
      raise UserError(f"no checkpoint in {self._directory}: train first, or correct the model directory")
    return result

  def _read_arrays(self, step: int, abstract: PyTree, record: Mapping[str, Any],
                   items: Sequence[str] = layout.ITEMS) -> PyTree:
    """Compares shapes, verifies the files, then reads them onto the shardings of `abstract`."""
    path, wanted, found = self._directory / str(step), layout.saved_leaves(abstract), layout.leaves_by_name(abstract)
    saved = {name: leaf for item in items for name, leaf in layout.of_item(record["leaves"], item).items()}
    named = compatibility.names(saved, wanted)
    layout.check_shapes(f"checkpoint {path}", compatibility.expected(saved, wanted, named), wanted)
    integrity.verify(path, {name: entry for name, entry in record["files"].items() if name.split("/")[0] in items})
    with integrity.reading(path):
      for item in items:
        leaves = layout.of_item(wanted, item)
        arrays = layout.read(path / item, {named[name]: leaf for name, leaf in leaves.items() if named[name] in saved})
        found |= {name: arrays[named[name]] if named[name] in saved else compatibility.fill(leaf, step)
                  for name, leaf in leaves.items()}
    return jax.tree.unflatten(jax.tree.structure(abstract), found.values())
