"""A wrong shape in a call of an annotated function is an error in the tests; everything else stays as it was."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import shapes

MODULE = '''
import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct


def add(x: Float[Array, "B L D"], y: Float[Array, " D"], times: int = 1) -> Float[Array, "B L D"]:
  return x + times * y


def grow(x: Float[Array, "B L"]) -> Float[Array, "B L+1"]:
  return x  # Wrong.


def maybe(x: Float[Array, "*B D"] | None, pair: tuple[Int[Array, " B"], str] | None = None) -> "Pair | None":
  return x


@flax.struct.dataclass
class Pair:
  left: Float[Array, "B"]

  @property
  def rows(self) -> Float[Array, "B 1"]:
    return self.left[:, None]


class Layer(nn.Module):
  size: int

  def setup(self):
    self.dense = nn.Dense(self.size)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L F"]:
    return self.dense(x)


class Block(nn.Module):
  size: int = 3

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], _) -> tuple[Float[Array, "B L D"], None]:
    def inner(y: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
      return y * self.param("scale", nn.initializers.ones, (self.size,))
    return Layer(self.size)(inner(x)), None


class Stack(nn.Module):

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    scan = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    return scan()(x, None)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def twice(x: Float[Array, " B"], unused: str) -> Float[Array, " B"]:
  return 2 * x


def _forward(x: Float[Array, " B"], unused: str) -> tuple[Float[Array, " B"], None]:
  return 2 * x, None


twice.defvjp(_forward, lambda unused, _, g: (2 * g,))
'''


@pytest.fixture(scope="module", name="module")
def _module(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checked")
  (folder / "checked_shapes_example.py").write_text(MODULE)
  finders, path = list(sys.meta_path), list(sys.path)
  sys.path.insert(0, str(folder))
  shapes.check_shapes_of("checked_shapes_example")
  import checked_shapes_example as module
  yield module
  sys.meta_path[:], sys.path[:] = finders, path
  del sys.modules["checked_shapes_example"]


ZEROS = np.zeros((2, 5, 3), np.float32)
WRONG = pytest.raises(Exception, match="Type-check error")


def test_shapes_must_agree(module):
  for zeros in (ZEROS, jnp.asarray(ZEROS)):
    assert module.add(zeros, zeros[0, 0], times=1.5).shape == zeros.shape  # A plain annotation is not checked.
    for wrong in ((zeros, zeros[0, 0, :2]), (zeros[0], zeros[0, 0]), (zeros.astype("int32"), zeros[0, 0])):
      with WRONG:
        module.add(*wrong)
  with WRONG:
    jax.eval_shape(module.add, ZEROS, ZEROS[0])
  with WRONG:
    jax.jit(module.grow)(ZEROS[0])
  shape = jax.ShapeDtypeStruct((4, 3), jnp.bfloat16)
  assert module.maybe(shape) is shape and module.maybe(None) is None
  assert module.maybe(ZEROS, (np.ones(2, int), "name")) is ZEROS
  assert inspect.getfullargspec(module.add).args == ["x", "y", "times"]


def test_pytrees_hold_anything(module):
  pair = module.Pair(left=ZEROS[0, 0])
  assert jax.tree.map(lambda _: None, pair).left is None
  assert pair.rows.shape == (3, 1)
  with WRONG:
    _ = module.Pair(left=ZEROS).rows


def test_modules_of_flax(module):
  stack = module.Stack()
  params = jax.jit(stack.init)(jax.random.key(0), ZEROS)
  assert stack.apply(params, ZEROS).shape == ZEROS.shape
  gradient = jax.jit(jax.grad(lambda params: stack.apply(params, ZEROS).sum()))(params)
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  for wrong in (ZEROS[0], ZEROS.astype(int)):
    with WRONG:
      stack.apply(params, wrong)
  with WRONG:
    module.Layer(3).init(jax.random.key(0), ZEROS[0])


def test_custom_gradients(module):
  assert jax.grad(lambda x: module.twice(x, "name").sum())(ZEROS[0, 0]).tolist() == [2, 2, 2]
  with WRONG:
    module.twice(ZEROS, "name")
