"""Checkpoints: all that a run needs to continue bit for bit, one Orbax directory a step.

    DIR/checkpoints/<step>/params/          the parameters, an Orbax tree of their own: evaluation reads nothing else
    DIR/checkpoints/<step>/state/           the rest of the train state
    DIR/checkpoints/<step>/checkpoint.json  data position, seed, gin text; dtype and shape of every leaf; size and
                                            CRC-32 of every file

`checkpoint.json` is the last file written before Orbax commits the directory with a rename, so a checkpoint either
has it or is damaged. Leaves under `frozen` are not saved: they never change, and the state has them from elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import logging
import re
import sys
from typing import Any
import uuid

from etils import epath
import gin
import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from gpt4x import run_directory
from gpt4x.checkpoints import integrity, layout
from gpt4x.checkpoints.integrity import Damaged
from gpt4x.checkpoints.layout import PyTree
from gpt4x.errors import UserError
from gpt4x.launch import agreement

# Orbax logs dozens of lines a save and repeats, with a traceback, the errors that reach the caller as exceptions.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save and what to keep."""

  period: int = 1000  # Steps between checkpoints.
  keep: int = 3  # The newest ones kept.
  keep_period: int | None = None  # Beside them, every checkpoint whose step it divides is kept for good.

  def __post_init__(self):
    for name in ("period", "keep", "keep_period"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise UserError(f"CheckpointConfig.{name} = {value} must be at least 1")


class Checkpoints:
  """The checkpoints of one model directory. In a run of several processes, every process makes the same calls."""

  def __init__(self, model_dir: str, config: CheckpointConfig | None = None):
    """Opens a model directory, for writing only if a config is given; readers leave it as it is."""
    self._model_dir = epath.Path(model_dir).expanduser().resolve()
    self._directory = self._model_dir / run_directory.CHECKPOINTS
    self._config = config
    self._manager: ocp.CheckpointManager | None = None  # Made by the first save.
    self._pending: tuple[int, dict[str, Any]] | None = None  # (step, record) of the latest save.
    if config is not None:
      self._make_directory()

  def save(self, step: int, state: PyTree, data_state: Mapping[str, Any], config_text: str, seed: int,
           wait: bool = False) -> None:
    """Copies `state` off the devices and writes it in the background; a step already saved is left as it is.

    Args:
      step: the step that `state` has reached.
      state: a pytree of `jax.Array`, with the parameters under `params`. What is under `frozen` is not saved.
      data_state: the data position, JSON; the same on every process.
      config_text: the operative gin text.
      seed: the run's random seed.
      wait: whether to return only when the checkpoint is on disk.

    Raises:
      UserError: if this save, or an earlier one in the background, failed. What was saved before is untouched.
    """
    leaves = layout.saved_leaves(state)
    record = json.loads(json.dumps({
        "leaves": {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()},
        "data_state": data_state, "config": config_text, "seed": seed}))
    saving = self._pending[0] if self._pending else None
    if saving != step:
      self.wait()
    with self._reporting_errors(step):
      if saving != step and step not in self.steps():
        self._pending = step, record
        self._open_manager().save(step, force=True, args=ocp.args.Composite(**{
            item: ocp.args.PyTreeSave(tree) for item, tree in layout.items(leaves).items()}))
    if wait:
      self.wait()

  def steps(self) -> list[int]:
    """The steps with a checkpoint, rising; one being written is not among them."""
    if not self._directory.exists():
      return []
    # On object stores Orbax writes in place and ends with a file; elsewhere its rename tells finished from unfinished.
    committed = lambda path: "://" not in str(path) or (path / "commit_success.txt").exists()
    return sorted(int(path.name) for path in self._directory.iterdir()
                  if re.fullmatch(r"0|[1-9]\d*", path.name) and committed(path))

  def latest_step(self) -> int | None:
    return max(self.steps(), default=None)

  def restore(self, abstract_state: PyTree, step: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
    """Restores the train state onto the shardings of `abstract_state`, whatever layout it was saved from.

    Args:
      abstract_state: a pytree of `jax.ShapeDtypeStruct` with shardings. What is under `frozen` is returned as it is.
      step: the checkpoint to read. None: the newest that is whole; damaged ones newer than it are renamed
        `<step>.damaged` (if the directory is open for writing), with a warning.

    Returns:
      (step, state, data_state), or None if there is no checkpoint.
    """
    def read(step):
      record = self._read_record(step)
      return step, self._read_arrays(step, abstract_state, record), record["data_state"]
    return self._read_newest(read, step)

  def restore_params(self, abstract_params: PyTree, step: int | None = None) -> tuple[int, PyTree]:
    """Restores only the parameters: (step, params)."""
    def read(step):
      return step, self._read_arrays(step, {"params": abstract_params}, self._read_record(step), "params")["params"]
    return self._found(self._read_newest(read, step))

  def config_text(self, step: int | None = None) -> str:
    """The operative gin text saved with a checkpoint."""
    return self._found(self._read_newest(lambda step: self._read_record(step)["config"], step))

  def check_seed(self, step: int, seed: int) -> None:
    """Raises UserError unless a checkpoint was saved with this random seed."""
    saved = self._read_newest(lambda step: self._read_record(step)["seed"], step)
    if saved != seed:
      raise UserError(f"train.seed = {seed}, but {self._model_dir} was trained with {saved}: dropout would"
                      " change in midrun; set SEED back, or start in a new model directory")

  def wait(self) -> None:
    """Returns when the latest save is on disk; raises UserError if it failed."""
    if self._manager is not None and self._pending is not None:
      with self._reporting_errors(self._pending[0]):
        self._manager.wait_until_finished()
        self._pending = None

  def close(self) -> None:
    """Waits, and ends the background threads."""
    try:
      self.wait()
    finally:
      if self._manager is not None:
        self._manager.close()
        self._manager = None

  # Writing.

  def _make_directory(self):
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      probe = self._directory / f".probe-{jax.process_index()}"
      probe.write_text("probe")  # A full disk may still have room for empty files and directories.
      probe.unlink()
      self._check_shared()
    except OSError as error:
      raise UserError(f"model directory {self._model_dir} cannot be written ({integrity.reason(error)}): free or unlock"
                      " it, or name another") from error

  def _check_shared(self):
    """Raises UserError on every process unless all of them see what the first has just written."""
    if jax.process_count() == 1:
      return
    probe = self._directory / f".shared-{agreement.exchange(uuid.uuid4().hex)[0]}"  # A name that nothing has cached.
    if jax.process_index() == 0:
      probe.touch()
    agreement.exchange("written")
    blind = [index for index, seen in enumerate(agreement.exchange(str(probe.exists()))) if seen == "False"]
    if jax.process_index() == 0:
      probe.unlink()
    if blind:
      raise UserError(f"model directory {self._model_dir} is not the same for all: process"
                      f" {', '.join(map(str, blind))} cannot see what process 0 writes there: name one that all hosts"
                      " share, such as NFS or a mounted bucket")

  def _open_manager(self) -> ocp.CheckpointManager:
    assert self._config is not None, "opened for reading only"
    if self._manager is None:
      policies = ocp.checkpoint_managers
      keep = [policies.LatestN(self._config.keep)]
      if self._config.keep_period:
        keep.append(policies.EveryNSteps(self._config.keep_period))
      self._manager = ocp.CheckpointManager(self._directory, options=ocp.CheckpointManagerOptions(
          preservation_policy=policies.AnyPreservationPolicy(keep),
          cleanup_tmp_directories=True,  # Only of names that Orbax gives to unfinished checkpoints.
          async_options=ocp.AsyncOptions(post_finalization_callback=self._write_record)))
    return self._manager

  def _write_record(self):
    """Runs on the first process when all files of a checkpoint are written and before Orbax commits them."""
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

  # Reading.

  def _read_newest(self, read: Callable[[int], Any], step: int | None) -> Any:
    """`read` of the step asked for, or of the newest whole one; None if there is none."""
    self.wait()
    steps = self.steps()
    if step is not None:
      if step not in steps:
        raise UserError(f"no checkpoint of step {step} in {self._directory}: the steps there are {steps}")
      try:
        return read(step)
      except Damaged as damage:
        raise UserError(f"checkpoint {self._directory / str(step)} is damaged ({damage}): choose another step of"
                        f" {steps}") from damage
    damages: dict[int, Damaged] = {}
    for step in reversed(steps):
      try:
        result = read(step)
      except Damaged as damage:
        damages[step] = damage
        continue
      for damaged, found in damages.items():
        self._set_aside(damaged, found, step)
      return result
    if damages:
      # They stay where they are: a second start must not take this for a new run.
      raise UserError(f"every checkpoint in {self._directory} is damaged ("
                      + "; ".join(f"{step}: {found}" for step, found in damages.items())
                      + "): move the directory away to start anew")
    return None

  def _set_aside(self, step: int, damage: Damaged, instead: int):
    path = self._directory / str(step)
    note = ""
    if self._config is not None:
      names = (f"{step}.damaged{number or ''}" for number in range(sys.maxsize))
      aside = next(self._directory / name for name in names if not (self._directory / name).exists())
      note = f" and keeping it as {aside.name}"
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoint found")
      if jax.process_index() == 0:
        path.rename(aside)
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoint set aside")
      if self._manager is not None:
        self._manager.reload()
    if jax.process_index() == 0:
      print(f"gpt4x: warning: checkpoint {path} is damaged ({damage}): using step {instead}{note}", file=sys.stderr)

  def _found(self, result: Any) -> Any:
    if result is None:
      raise UserError(f"no checkpoint in {self._directory}: train first, or correct the model directory")
    return result

  def _read_record(self, step: int) -> dict[str, Any]:
    return integrity.read_record(self._directory / str(step))

  def _read_arrays(self, step: int, abstract: PyTree, record: Mapping[str, Any], only: str | None = None) -> PyTree:
    """Compares shapes, verifies the files, then reads them onto the shardings of `abstract`; `only`: of one item."""
    path = self._directory / str(step)
    wanted = [item for item in layout.ITEMS if only in (None, item)]
    saved = {name: leaf for name, leaf in record["leaves"].items() if layout.item_of(name) in wanted}
    layout.check_shapes(f"checkpoint {path}", saved, layout.saved_leaves(abstract))
    integrity.verify(path, {name: entry for name, entry in record["files"].items() if name.split("/")[0] in wanted})
    with integrity.reading(path):
      return layout.read(path, abstract)
