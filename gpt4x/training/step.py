"""The train step: a pure function, top to bottom."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from gpt4x.models.language_model import Batch, Params
from gpt4x.models.model import Model
from gpt4x.models.parameters import Declaration
from gpt4x.models.sums import metrics, Sums
from gpt4x.objectives.objective import Objective
from gpt4x.training.finiteness import applied_if, finite
from gpt4x.training.gradients import Gradients, whole
from gpt4x.training.optimizers import complete, learning_rate_of, Optimizer
from gpt4x.training.state import everything, merge, run_keys, select, Trained, TrainState

# (params, the sums of the step) -> params: a router's bias, masks of pruned weights, an average.
AfterUpdate = Callable[[Params, Sums], Params]


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """One optimizer step on a batch of `decoder_*` features [B, L]; the memory moves on by L."""

  model: Model
  objective: Objective
  optimizer: Optimizer  # See optimizers.py.
  clip_norm: float | None = None  # Global norm that gradients are scaled down to; None: they are not.
  gradients: Gradients = whole  # How gradients are taken; see gradients.py.
  trained: Trained = everything
  after_update: tuple[AfterUpdate, ...] = ()  # Called in turn after the model's own.
  seed: int = 0  # Of dropout; the step t uses nothing but (seed, t).
  # 'skip' leaves out an update that is not finite, which takes room for a second state; 'stop' leaves that to the loop.
  on_nonfinite: Literal["stop", "skip"] = "stop"

  @functools.cached_property
  def transformation(self) -> optax.GradientTransformation:
    """The optimizer of the parameters that are trained."""
    _, declarations = self.model.declared
    declarations, _ = select(declarations, self.trained, is_leaf=lambda x: isinstance(x, Declaration))
    return complete(self.optimizer, declarations, self.clip_norm)

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    """The next state, and the means of the step's sums with more: `finite` is 1 if the next step can start from it."""
    trained, fixed = select(state.params, self.trained)

    def loss(params, batch, memory, rng):
      whole = self.model.whole(merge(params, fixed), state.frozen)
      return self.objective(self.model, whole, state.frozen, batch, memory, rng)

    rng = jax.random.fold_in(run_keys(self.seed)[1], state.step)
    gradients, sums, memory = self.gradients(
        loss, self.objective.coefficients(self.model), trained, batch, state.memory, rng)
    updates, opt_state = self.transformation.update(gradients, state.opt_state, trained)
    params = merge(optax.apply_updates(trained, updates), fixed)
    for change in (*self.model.after_update, *self.after_update):
      params = change(params, sums)
    after = state.replace(step=state.step + 1, params=params, opt_state=opt_state, memory=memory)

    found = metrics(sums) | {"gradient_norm": optax.tree.norm(gradients)}
    found |= learning_rate_of(self.optimizer, state.opt_state, opt_state)
    ok = finite(after) & jnp.isfinite(found["loss"]) & jnp.isfinite(found["gradient_norm"])
    found["finite"] = ok.astype(jnp.float32)
    if self.on_nonfinite == "skip":
      found["skipped"] = 1 - found["finite"]
      after = applied_if(ok, after, state)
    return after, found

  def jit(self, shapes: TrainState) -> jax.stages.Wrapped:
    """The step compiled for a state as `state_shapes` has it, which is updated in place."""
    shardings = jax.tree.map(lambda shape: shape.sharding, shapes)
    return jax.jit(self.__call__, donate_argnums=0, out_shardings=(shardings, shardings.step))
