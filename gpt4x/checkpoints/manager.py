"""Checkpoints: all that a run needs to continue bit for bit, one Orbax directory for each saved step.

    DIR/checkpoints/<step>/params/          the parameters; evaluation reads nothing else
    DIR/checkpoints/<step>/state/           the rest of the train state
    DIR/checkpoints/<step>/checkpoint.json  step, data position, seed, gin text; dtype and shape of every leaf; size
                                            and CRC-32 of every file

`checkpoint.json` is written last, before Orbax commits the directory with a rename: a checkpoint without it is damaged.
Leaves under `frozen` are not saved, since they never change and come from elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
import orbax.checkpoint as ocp

from gpt4x import run_directory
from gpt4x.checkpoints import compatibility, integrity, layout
from gpt4x.checkpoints.aside import set_aside
from gpt4x.checkpoints.integrity import Damaged
from gpt4x.checkpoints.layout import PyTree
from gpt4x.errors import UserError
from gpt4x.launch import agreement

# Orbax logs dozens of lines for each save, and the errors that it raises as well, with a traceback.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


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


class Checkpoints:
  """The checkpoints of one model directory. In a run of several processes, every process makes the same calls."""

  def __init__(self, model_dir: str, config: CheckpointConfig | None = None):
    """Opens a model directory, for writing only if a config is given; readers change nothing there."""
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
      state: a pytree of `jax.Array`, with the parameters under `params`. Leaves under `frozen` are not saved.
      data_state: the data position, JSON; the same on every process.
      config_text: the operative gin text.
      seed: the run's random seed.
      wait: whether to return only when the checkpoint is on disk.

    Raises:
      UserError: if this save, or an earlier one in the background, failed. Earlier checkpoints are untouched.
    """
    leaves = layout.saved_leaves(state)
    record = json.loads(json.dumps({
        "leaves": {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()},
        "step": step, "data_state": data_state, "config": config_text, "seed": seed}))
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

  def steps(self) -> list[int]:
    """The steps with a finished checkpoint, rising."""
    # Orbax ends with a rename; on object stores it writes in place and ends with this file.
    committed = lambda path: "://" not in str(path) or (path / "commit_success.txt").exists()
    try:
      return sorted(int(path.name) for path in self._directory.iterdir()
                    if re.fullmatch(r"0|[1-9]\d*", path.name) and committed(path))
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

  def config_text(self, step: int | None = None) -> str:
    """The operative gin text saved with a checkpoint."""
    return self._found(self._read_newest(lambda _, record: record["config"], step))

  def check_seed(self, step: int, seed: int) -> None:
    """Raises UserError unless a checkpoint was saved with this random seed."""
    saved = self._read_newest(lambda _, record: record["seed"], step)
    if saved != seed:
      raise UserError(f"train.seed = {seed}, but {self._model_dir} was trained with {saved}: dropout would"
                      " change in midrun; set SEED back, or start in a new model directory")

  def go_back(self, step: int) -> None:
    """Sets aside, as `<step>.aside`, what is newer than a checkpoint, which is then the newest."""
    for newer in reversed(self.steps()):
      if newer > step:
        name = set_aside(self._directory / str(newer), "aside").name
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
      self._directory.mkdir(parents=True, exist_ok=True)
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
      self._manager = ocp.CheckpointManager(self._directory, options=ocp.CheckpointManagerOptions(
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

  # Reading.

  def _read_newest(self, read: Callable[[int, dict[str, Any]], Any], step: int | None) -> Any:
    """`read(step, record)` of the step asked for, or of the newest whole one; None if there is no checkpoint."""
    self.wait()
    steps = self.steps()
    if step is not None and step not in steps:
      raise UserError(f"no checkpoint of step {step} in {self._directory}: the steps there are {steps}")
    damages: dict[int, Damaged] = {}
    for candidate in reversed(steps) if step is None else [step]:
      try:
        result = read(candidate, self._read_record(candidate))
      except Exception as error:
        if self._config is None and self.steps() != steps:
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
      retired = "" if self._config else ", unless a run that writes there has just retired it"
      return UserError(f"checkpoint {self._directory / str(step)} is damaged ({damages[step]}){retired}: choose another"
                       f" step of {steps}")
    # All stay where they are, or a second start would take this for a new run. Who only reads is not told to move what
    # another may be using.
    remedy = "move the directory away to start anew" if self._config else "read a copy of it, or another run"
    return UserError(f"every checkpoint in {self._directory} is damaged ("
                     + "; ".join(f"{step}: {reason}" for step, reason in damages.items()) + f"): {remedy}")

  def _pass_over(self, step: int, damage: Damaged, instead: int):
    path, note = self._directory / str(step), ""
    if self._config is not None:
      note = f" and keeping it as {set_aside(path, 'damaged').name}"
      if self._manager is not None:
        self._manager.reload()
    if jax.process_index() == 0:
      print(f"gpt4x: warning: checkpoint {path} is damaged ({damage}): using step {instead}{note}", file=sys.stderr)

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
