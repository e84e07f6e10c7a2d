"""Checkpoints: all that a run needs to continue bit for bit, one Orbax directory a step.

    DIR/checkpoints/<step>/params/          the parameters, an Orbax tree of their own: evaluation reads nothing else
    DIR/checkpoints/<step>/state/           the rest of the train state
    DIR/checkpoints/<step>/checkpoint.json  data position, seed, gin text; dtype and shape of every leaf; size and
                                            CRC-32 of every file

`checkpoint.json` is the last file written before Orbax commits the directory with a rename, so a checkpoint either
has it or is damaged. Orbax alone returns wrong numbers for a flipped bit in an array's bytes; the checksums find it
before anything is read, and tell damage (fall back) from a store that cannot be reached just now (stop).
"""

import contextlib
import dataclasses
import json
import logging
import re
import sys
import uuid
import zlib
from concurrent import futures
from typing import Any, Callable, Iterator, Mapping

from etils import epath
import gin
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from gpt4x.launch import agreement
from gpt4x.errors import UserError

PyTree = Any
_RECORD = "checkpoint.json"
_CHUNK = 1 << 24

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


class _Damaged(Exception):
  """A checkpoint whose files are not those that were written."""


class Checkpoints:
  """The checkpoints of one model directory. In a run of several processes, every process makes the same calls."""

  def __init__(self, model_dir: str, config: CheckpointConfig | None = None):
    """Opens a model directory, for writing only if a config is given; readers leave it as it is."""
    self._model_dir = epath.Path(model_dir).expanduser().resolve()
    self._directory = self._model_dir / "checkpoints"
    self._config = config
    self._manager = None  # Made by the first save.
    self._pending = None  # (step, record) of the latest save.
    if config is not None:
      self._make_directory()

  def save(self, step: int, state: PyTree, data_state: Mapping[str, Any], config_text: str, seed: int,
           wait: bool = False) -> None:
    """Copies `state` off the devices and writes it in the background; a step already saved is left as it is.

    Args:
      step: the step that `state` has reached.
      state: a pytree of `jax.Array`, with the parameters under `params`.
      data_state: the data position, JSON; the same on every process.
      config_text: the operative gin text.
      seed: the run's random seed.
      wait: whether to return only when the checkpoint is on disk.

    Raises:
      UserError: if this save, or an earlier one in the background, failed. What was saved before is untouched.
    """
    leaves = _leaves(state)
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
            item: ocp.args.PyTreeSave(tree) for item, tree in _items(leaves).items()}))
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
      abstract_state: a pytree of `jax.ShapeDtypeStruct` with shardings.
      step: the checkpoint to read. None: the newest that is whole; damaged ones newer than it are renamed
        `<step>.damaged` (if the directory is open for writing), with a warning.

    Returns:
      (step, state, data_state), or None if there is no checkpoint.
    """
    def read(step):
      record = self._read_record(step)
      state = self._read_arrays(step, record, record["leaves"], abstract_state, ("params", "state"))
      return step, state, record["data_state"]
    return self._read_newest(read, step)

  def restore_params(self, abstract_params: PyTree, step: int | None = None) -> tuple[int, PyTree]:
    """Restores only the parameters: (step, params)."""
    def read(step):
      record = self._read_record(step)
      saved = {name: leaf for name, leaf in record["leaves"].items() if _item(name) == "params"}
      return step, self._read_arrays(step, record, saved, {"params": abstract_params}, ("params",))["params"]
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
    if self._pending is not None:
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
      raise UserError(f"model directory {self._model_dir} cannot be written ({_reason(error)}): free or unlock it, or"
                      " name another") from error

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
    step, record = self._pending
    unfinished = self._directory / f"{step}{ocp.utils.TMP_DIR_SUFFIX}"
    directory = unfinished if unfinished.exists() else self._directory / str(step)
    # Orbax rewrites its own note at the top while committing; nothing is read from it.
    paths = [root / name for item in ("params", "state") for root, _, names in (directory / item).walk()
             for name in names]
    with futures.ThreadPoolExecutor(8) as pool:
      files = {str(path.relative_to(directory)): entry for path, entry in zip(paths, pool.map(_checksum, paths))}
    record = record | {"files": files}
    (directory / _RECORD).write_text(json.dumps({"crc32": _crc32_of_json(record), "record": record}))

  @contextlib.contextmanager
  def _reporting_errors(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      self._pending = None
      raise UserError(
          f"checkpoint {self._directory / str(step)} was not saved ({_reason(error)}): mend that and start again;"
          " earlier checkpoints are untouched") from error

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
      except _Damaged as damage:
        raise UserError(f"checkpoint {self._directory / str(step)} is damaged ({damage}): choose another step of"
                        f" {steps}") from damage
    damages = {}
    for step in reversed(steps):
      try:
        result = read(step)
      except _Damaged as damage:
        damages[step] = damage
        continue
      for damaged, damage in damages.items():
        self._set_aside(damaged, damage, step)
      return result
    if damages:
      # They stay where they are: a second start must not take this for a new run.
      raise UserError(f"every checkpoint in {self._directory} is damaged ("
                      + "; ".join(f"{step}: {damage}" for step, damage in damages.items())
                      + "): move the directory away to start anew")
    return None

  def _set_aside(self, step: int, damage: _Damaged, instead: int):
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
    path = self._directory / str(step) / _RECORD
    try:
      with _reading(path):
        content = json.loads(path.read_text())
        if _crc32_of_json(content["record"]) != content["crc32"]:
          raise ValueError
        return content["record"]
    except (ValueError, KeyError, TypeError) as error:
      raise _Damaged(f"{_RECORD} has been altered") from error

  def _read_arrays(self, step: int, record: Mapping[str, Any], saved: Mapping[str, Any], abstract: PyTree,
                   items: tuple[str, ...]) -> PyTree:
    """Compares shapes, verifies the files of `items`, then reads them onto the shardings of `abstract`."""
    path = self._directory / str(step)
    wanted = _leaves(abstract)
    check_shapes(f"checkpoint {path}", saved, wanted)
    _verify(path, {name: entry for name, entry in record["files"].items() if name.split("/")[0] in items})
    with _reading(path):
      restored = {}
      for item, tree in _items(wanted).items():
        with ocp.PyTreeCheckpointer() as checkpointer:
          restored[item] = checkpointer.restore(path / item, args=ocp.args.PyTreeRestore(
              tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)))
    nothing = lambda leaf: jax.make_array_from_callback(
        leaf.shape, leaf.sharding, np.zeros(leaf.shape, leaf.dtype).__getitem__)
    leaves = {name: nothing(leaf) for name, leaf in wanted.items() if not leaf.size}
    for tree in restored.values():
      leaves |= _leaves(tree)
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in wanted])


def _leaves(tree: PyTree) -> dict[str, Any]:
  """Leaves by name, such as 'params/decoder/final_norm/scale', in the order of `jax.tree.leaves`."""
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _item(name: str) -> str:
  return "params" if name.startswith("params/") else "state"


def _items(leaves: Mapping[str, Any]) -> dict[str, PyTree]:
  """The Orbax trees of a checkpoint: nested dicts, so that what is on disk does not depend on our classes."""
  trees = {}
  for name, leaf in leaves.items():
    if not leaf.size:  # Orbax refuses them, and there is nothing to save.
      continue
    tree = trees.setdefault(_item(name), {})
    *parents, last = name.split("/")
    for parent in parents:
      tree = tree.setdefault(parent, {})
    tree[last] = leaf
  return trees


def check_shapes(checkpoint: str, saved: Mapping[str, tuple[Any, Any]], wanted: Mapping[str, Any]) -> None:
  """Raises UserError that names a leaf unless both sides have the same leaves, dtypes and shapes.

  Args:
    checkpoint: what to call it.
    saved: (dtype, shape) of each leaf.
    wanted: each leaf, or its ShapeDtypeStruct.
  """
  describe = lambda dtype, shape: f"{dtype}{list(shape)}"
  there = {name: describe(*leaf) for name, leaf in saved.items()}
  here = {name: describe(leaf.dtype, leaf.shape) for name, leaf in wanted.items()}
  different = [name for name in {**here, **there} if here.get(name) != there.get(name)]
  if different:
    name = different[0]
    others = f" (and {len(different) - 1} more leaves differ)" if different[1:] else ""
    raise UserError(
        f"{checkpoint} does not fit this configuration: {name} is {there.get(name, 'missing')} in the checkpoint and"
        f" {here.get(name, 'missing')} in the configuration{others}: use the configuration it was saved with, or"
        " another model directory")


def _crc32_of_json(content: Any) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checksum(path: epath.Path) -> list[int]:
  """[size, CRC-32] of a file."""
  size = crc = 0
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
  return [size, crc]


def _verify(path: epath.Path, files: Mapping[str, list[int]]):
  """Raises _Damaged, on every process, if a file is not as it was written; each process reads its share."""
  def problem(name: str) -> str | None:
    with _reading(path):
      if not (path / name).exists():
        return f"{name} is missing"
      size, crc = _checksum(path / name)
    if size != files[name][0]:
      return f"{name} has {size} bytes of {files[name][0]}"
    return None if crc == files[name][1] else f"{name} has been altered"
  share = sorted(files)[jax.process_index()::jax.process_count()]
  with futures.ThreadPoolExecutor(8) as pool:
    problems = [found for found in pool.map(problem, share) if found]
  if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(bool(problems))).any():
    problems = problems or ["found by another process"]
  if problems:
    raise _Damaged(problems[0])


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
  """Errors that say nothing about the files themselves, such as a store that cannot be reached, end the run."""
  try:
    yield
  except FileNotFoundError as error:
    raise _Damaged(f"{epath.Path(error.filename or path).name} is missing") from error
  except OSError as error:
    raise UserError(f"checkpoint {path} cannot be read ({_reason(error)}): mend that and start again") from error


def _reason(error: BaseException) -> str:
  """The cause in a few words; TensorStore and Orbax wrap the operating system's in pages of text."""
  texts = []
  while error is not None:
    texts.append(str(error))
    error = error.__cause__ or error.__context__
  known = re.search("No space left on device|File too large|Disk quota exceeded|Read-only file system"
                    "|Permission denied|Not a directory|Input/output error", "\n".join(texts))
  return known.group().lower() if known else " ".join(texts[0].split())[:200]
