"""A language model in a directory of its own, whose parameters an objective is given and never changes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gpt4x import configuration, run_directory, storage
from gpt4x.errors import UserError
from gpt4x.models.language_model import Adapter, LanguageModel
from gpt4x.models.parameters import Declaration, Substitute

DType = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """A model, and where its parameters lie."""

  parameter: str  # Gin's name for what says where, for messages.
  directory: str
  model: LanguageModel
  step: int | None = None  # Of the checkpoint; None: the newest.
  dtype: DType = "auto"  # Of its kernels while they are in use; auto: the model's compute dtype.

  def cast(self, params: Any) -> Any:
    """The parameters, or their shapes, as they are in use: kernels in `dtype`, the rest as it was."""
    dtype = jnp.dtype(self.model.config.compute_dtype if self.dtype == "auto" else self.dtype)

    def one(declaration, leaf):
      if not declaration.is_kernel or isinstance(leaf, Substitute) or leaf.dtype == dtype:
        return leaf
      if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
      return leaf.astype(dtype)

    return jax.tree.map(one, self.model.declared[1], params, is_leaf=lambda x: isinstance(x, Declaration))


def read(parameter: str, directory: str, step: int | None = None, dtype: DType = "auto") -> SavedModel:
  """The language model of a directory, by the configuration there; that of this process stays as it is."""
  path = storage.path(directory) / run_directory.CONFIG
  with storage.errors(path):
    if not directory or not path.exists():
      raise UserError(f"{parameter} = {directory!r} has no {run_directory.CONFIG}: name the directory of a run or of a"
                      " converted model, from here or as a whole path")
  try:
    model = configuration.build_of(directory, "Experiment").model
  except UserError as error:
    raise UserError(f"{parameter} = {directory!r} cannot be read ({error}): mend that, or name another") from error
  if not isinstance(model, LanguageModel):
    raise UserError(f"{parameter} = {directory!r} holds a {type(model).__name__}: name a language model")
  if isinstance(model.form, Adapter):
    raise UserError(f"{parameter} = {directory!r} holds adapters alone: name their base, or the whole model that `gpt4x"
                    " export` and `gpt4x convert --from=safetensors` make of them")
  return SavedModel(parameter, directory, model, step, dtype)
