"""Checkpoints: all that a run needs to continue bit for bit, one Orbax directory for each saved step.

    DIR/checkpoints/<step>/params/          the parameters; evaluation reads nothing else
    DIR/checkpoints/<step>/state/           the rest of the train state
    DIR/checkpoints/<step>/checkpoint.json  step, data position, seed, gin text; dtype and shape of every leaf; size
                                            and CRC-32 of every file

`checkpoint.json` is written last, before Orbax commits the directory with a rename: a checkpoint without it is damaged.
In a bucket nothing is renamed: the files are written in place, and Orbax's `commit_success.txt` after the record.
Leaves under `frozen` are not saved, since they never change and come from elsewhere; `checkpoint.json` says from where.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import sys
from typing import Any
import uuid

import gin
import jax
import orbax.checkpoint as ocp

from gpt4x import storage
from gpt4x.checkpoints import integrity, layout, quiet
from gpt4x.checkpoints.aside import set_aside
from gpt4x.checkpoints.frozen_models import Reference
from gpt4x.checkpoints.layout import PyTree
from gpt4x.checkpoints.reader import Reader
from gpt4x.errors import UserError
from gpt4x.launch import agreement

quiet.silence()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save and what to keep."""

  period: int = 1000  # Steps between checkpoints.
  keep: int = 3  # How many of the newest to keep.
  keep_period: int | None = None  # Checkpoints of steps that this divides are kept for good.

  def __post_init__(self):
    for name in ("period", "keep", "keep_period"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise UserError(f"CheckpointConfig.{name} = {value} must be at least 1")


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which does not ask JAX's preemption service.

  The service takes one series of numbered questions, the train loop's. A step's number among them would set it back,
  and the point where all processes are to stop would then be behind them.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class Checkpoints(Reader):
  """The checkpoints of one model directory, to read and to write."""

  def __init__(self, model_dir: str, config: CheckpointConfig | None = None):
    """Opens a model directory, for writing only if a config is given; readers change nothing there."""
    super().__init__(model_dir)
    self._config, self._writes = config, config is not None
    self._manager: ocp.CheckpointManager | None = None  # Made by the first save.
    self._pending: tuple[int, dict[str, Any]] | None = None  # (step, record) of the latest save.
    if config is not None:
      self._make_directory()

  def save(self, step: int, state: PyTree, data_state: Mapping[str, Any], config_text: str, seed: int,
           wait: bool = False, frozen: Mapping[str, Reference] | None = None) -> None:
    """Copies `state` off the devices and writes it in the background; a step already saved is left as it is.

    Args:
      step: the step that `state` has reached.
      state: a pytree of `jax.Array`, with the parameters under `params`. Leaves under `frozen` are not saved.
      data_state: the data position, JSON; the same on every process.
      config_text: the operative gin text.
      seed: the run's random seed.
      wait: whether to return only when the checkpoint is on disk.
      frozen: where the leaves under `frozen` come from, by name.

    Raises:
      UserError: if this save, or an earlier one in the background, failed. Earlier checkpoints are untouched.
    """
    leaves = layout.saved_leaves(state)
    record = json.loads(json.dumps({
        "leaves": {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()},
        "step": step, "data_state": data_state, "config": config_text, "seed": seed,
        **({"frozen": frozen} if frozen else {})}))
    saving = self._pending[0] if self._pending else None
    if saving != step:
      self.wait()
    with self._reporting_errors(step):
      if saving != step and step not in self.steps():
        self._pending = step, record
        self._open_manager().save(step, force=True, args=ocp.args.Composite(**{
            item: ocp.args.PyTreeSave(tree) for item in layout.ITEMS
            if (tree := layout.nested(layout.of_item(leaves, item)))}))
    if wait:
      self.wait()

  def go_back(self, step: int) -> None:
    """Sets aside, as `<step>.aside`, what is newer than a checkpoint, which is then the newest."""
    for newer in reversed(self.steps()):
      if newer > step:
        name = self._set_aside(newer, "aside")
        if jax.process_index() == 0:
          print(f"gpt4x: checkpoint {newer} is kept as {name}", file=sys.stderr)

  def wait(self) -> None:
    """Returns when the latest save is on disk; raises UserError if it failed."""
    if self._manager is not None and self._pending is not None:
      with self._reporting_errors(self._pending[0]):
        self._manager.wait_until_finished()
        self._pending = None

  def close(self) -> None:
    """Waits for the latest save and ends the background threads."""
    try:
      self.wait()
    finally:
      if self._manager is not None:
        self._manager.close()
        self._manager = None

  # Writing.

  def _make_directory(self):
    """Makes the directory; raises UserError unless it can be written and all processes see what process 0 writes."""
    name = f".probe-{agreement.exchange(uuid.uuid4().hex)[0]}"  # No cache knows a new name.
    first, own = (self._directory / f"{name}-{index}" for index in (0, jax.process_index()))
    try:
      with storage.errors(self._model_dir):
        storage.make_directory(self._directory)
        own.write_text("probe")  # A full disk may still have room for empty files and directories.
        agreement.exchange("written")
        blind = [str(index) for index, seen in enumerate(agreement.exchange(str(first.exists()))) if seen == "False"]
        own.unlink()
      agreement.exchange("removed")  # Whoever raises below may end the other processes.
    except OSError as error:
      raise UserError(f"model directory {self._model_dir} cannot be written ({integrity.reason(error)}): free or unlock"
                      " it, or name another") from error
    if blind:
      raise UserError(f"model directory {self._model_dir} is not the same for all: process {', '.join(blind)} cannot"
                      " see what process 0 writes there: name one that all hosts share, as on NFS or a mounted bucket")

  def _open_manager(self) -> ocp.CheckpointManager:
    assert self._config is not None, "opened for reading only"
    if self._manager is None:
      policies = ocp.checkpoint_managers
      keep = [policies.LatestN(self._config.keep)]
      if self._config.keep_period:
        keep.append(policies.EveryNSteps(self._config.keep_period))
      self._manager = _Manager(self._directory, options=ocp.CheckpointManagerOptions(
          preservation_policy=policies.AnyPreservationPolicy(keep),
          cleanup_tmp_directories=True,  # Removes only names that Orbax gives to unfinished checkpoints.
          async_options=ocp.AsyncOptions(post_finalization_callback=self._write_record)))
    return self._manager

  def _write_record(self):
    """Runs on process 0 when all files of a checkpoint are written, before Orbax commits them."""
    assert self._pending is not None
    step, record = self._pending
    unfinished = self._directory / f"{step}{ocp.utils.TMP_DIR_SUFFIX}"
    directory = unfinished if unfinished.exists() else self._directory / str(step)
    integrity.write_record(directory, record, layout.ITEMS)

  @contextlib.contextmanager
  def _reporting_errors(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      self._pending = None
      raise UserError(
          f"checkpoint {self._directory / str(step)} was not saved ({integrity.reason(error)}): mend that and start"
          " again; earlier checkpoints are untouched") from error

  def _read_newest(self, read: Callable[[int, dict[str, Any]], Any], step: int | None) -> Any:
    self.wait()
    return super()._read_newest(read, step)

  def _put_away(self, step: int) -> str:
    return f" and keeping it as {self._set_aside(step, 'damaged')}" if self._writes else ""

  def _set_aside(self, step: int, why: str) -> str:
    aside = set_aside(self._directory / str(step), why)
    if self._manager is not None:
      self._manager.reload()
    return aside.name
