"""Turns checkpoints of one loop into those of the other: parameters, optimizer, memory and data position.

t5x keeps `DIR/checkpoint_<step>/{state,dataset}`, we keep `DIR/checkpoints/<step>`. Both hold the same leaves under
other names, so nothing here needs t5x.
"""

import dataclasses
import json
import re
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import orbax.checkpoint as ocp

from gpt4x import storage
from gpt4x.checkpoints import layout
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.errors import UserError
from gpt4x.launch import lock
from gpt4x.training.config import TrainConfig
from gpt4x.training.initial_state import init_state, state_shapes
from gpt4x.training.state import TrainState

# Where t5x keeps the parts of our TrainState.
_NAMES = {"params": "target", "opt_state": "state/param_states", "step": "state/step", "memory": "flax_mutables/memory"}


def newest_t5x_step(model_dir: str) -> int | None:
  """The newest step that t5x has saved in a model directory; None if there is none."""
  directory = storage.path(model_dir)
  names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
  return max((int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint_(\d+)", name))), default=None)


def bring_over(model_dir: str, config: TrainConfig) -> None:
  """Makes t5x's newest checkpoint one of ours, if ours are behind, before our own loop starts."""
  if newest_t5x_step(model_dir) is not None:
    with lock.held(model_dir):
      Crossing(model_dir, config).bring_over()


class Crossing:
  """A run that either loop may continue."""

  def __init__(self, model_dir: str, config: TrainConfig):
    self._model_dir, self._config = model_dir, config
    self._directory = Checkpoints(model_dir, config.checkpoints)
    self._shapes = state_shapes(config.step, config.experiment.dataset.batch_size, config.experiment.memory_length,
                                config.partitioner)

  def state_ahead_of_t5x(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """(step, t5x's state dict, data position) for t5x to start from; None if its own checkpoint is as new."""
    config = self._config
    ours, theirs = self._directory.latest_step(), newest_t5x_step(self._model_dir)
    if ours is not None and (theirs is None or ours > theirs):
      step, state, data_state = self._directory.restore(self._shapes)
      self._directory.check_seed(step, config.seed)
    elif theirs is None and config.init_from:
      state = init_state(config.step, self._shapes, config.partitioner)
      state = dataclasses.replace(state, params=config.experiment.params_from(
          config.init_from, config.partitioner, state.params))
      step, data_state = 0, config.experiment.data.train().get_state()
    else:
      return None
    return step, layout.nested(_t5x_leaves(state)), data_state

  def bring_over(self) -> None:
    """Makes the newest checkpoint of t5x one of ours, if ours are behind."""
    ours, theirs = self._directory.latest_step(), newest_t5x_step(self._model_dir)
    if theirs is None or (ours is not None and ours >= theirs):
      return
    path = epath.Path(self._model_dir).expanduser().resolve() / f"checkpoint_{theirs}"
    positions = [root / name for root, _, names in (path / "dataset").walk() for name in names
                 if name.startswith("train_ds-")]  # Each host writes one; all are alike.
    if not positions:
      raise UserError(f"{path} has no data position, so that --loop=gpt4x cannot continue it: start a new run, or go on"
                      " with t5x and SaveCheckpointConfig.save_dataset = True")
    try:
      data_state = json.loads(positions[0].read_text())
    except ValueError as error:
      raise UserError(f"{positions[0]} is no data position of this project's stream: continue with the t5x"
                      " configuration that wrote it") from error
    wanted = _t5x_leaves(self._shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
      saved = traverse_util.flatten_dict(checkpointer.metadata(path / "state").item_metadata.tree, sep="/")
    layout.check_shapes(f"t5x's checkpoint {path}", {name: (leaf.dtype, leaf.shape) for name, leaf in saved.items()},
                        {name: leaf for name, leaf in wanted.items() if leaf.size})  # t5x saves no empty leaves.
    state = _from_t5x_leaves(self._shapes, layout.read(path / "state", wanted))
    self._directory.save(theirs, state, data_state, self._config.gin_text, self._config.seed, wait=True)
    self._directory.close()


def _t5x_leaves(state: TrainState) -> dict[str, Any]:
  """Our leaves by t5x's names, in the order of `jax.tree.leaves`."""
  parts = ((name.partition("/"), leaf) for name, leaf in layout.saved_leaves(state).items())
  return {_NAMES[part] + slash + rest: leaf for (part, slash, rest), leaf in parts}


def _from_t5x_leaves(shapes: TrainState, leaves: dict[str, Any]) -> TrainState:
  """The state of these shapes from leaves by t5x's names; what is frozen stays as it is."""
  ours = dict(zip(layout.saved_leaves(shapes), _t5x_leaves(shapes)))
  found = [leaves[ours[name]] if name in ours else leaf for name, leaf in layout.leaves_by_name(shapes).items()]
  return jax.tree.unflatten(jax.tree.structure(shapes), found)
