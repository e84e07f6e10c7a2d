"""CodecModel: what a loop, an evaluation and checkpoints see of a codec, as LanguageModel is of a decoder."""

from collections.abc import Callable, Mapping
import functools
import types
from typing import Any

import flax.core
import gin
import jax
from jaxtyping import Float, Int

from gpt4x.media.codec_module import cells_of_zeros, CodecConfig, CodecModule, from_cells, to_cells
from gpt4x.models.parameters import Declaration
from gpt4x.models.shapes import Array
from gpt4x.models.sums import Sums

Params = Any
_WINDOW = ("window_0", "window_1", "window_2")


@gin.configurable
class CodecModel:
  """A codec as pure functions of its parameters."""

  def __init__(self, config: CodecConfig):
    self.config = config
    self.module = CodecModule(config)

  coefficients: dict[str, float] = {}
  after_update: tuple[Callable[[Params, Sums], Params], ...] = ()
  frozen_models: Mapping[str, Any] = types.MappingProxyType({})

  def whole(self, params: Params, frozen: Mapping[str, Any]) -> Params:
    return params

  def init(self, rng: jax.Array) -> Params:
    """Fresh float32 parameters, a nested dict."""
    return flax.core.unfreeze(self.module.init(rng, cells_of_zeros(self.config))["params"])

  @functools.cached_property
  def declared(self) -> tuple[Params, Any]:
    """The shape and the Declaration of each parameter, two trees; no computation. A codec is small: it is not split."""
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return shapes, jax.tree.map(lambda leaf: _declaration(len(leaf.shape)), shapes)

  def reconstruct(self, params: Params, media: Float[Array, "B ..."]) -> tuple[jax.Array, jax.Array, Int[Array, "..."]]:
    """Media (see `codec_module.to_cells`) as decoding has them, their decoded cells, and their codes [B, *cells, K]."""
    found: Any = self.module.apply({"params": params}, to_cells(self.config, media))
    cells, codes = found
    return from_cells(self.config, cells), cells, codes


def _declaration(axes: int) -> Declaration:
  """Of a bias or a scale, which have one axis, or of a kernel [*window, inputs, outputs]."""
  if axes == 1:
    return Declaration(("outputs",))
  names = (*_WINDOW[:axes - 2], "inputs", "outputs")
  return Declaration(names, names[:-1])
