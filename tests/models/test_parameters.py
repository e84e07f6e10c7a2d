"""The door of parameters: what stands in for a kernel changes no layer, whatever the stack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models import parameters
from gpt4x.models.parameters import Kernel
from gpt4x.objectives.next_token import NextToken
from tests.models import substitutes, tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

_STACKS = {
    "scanned": {}, "rotary": STYLES["modern"], "apart": STYLES["same_length"], "mixture": STYLES["mixture"],
    "shared": dict(num_layers=4, share_layers=2), "adaptive": STYLES["adaptive"],
    "tied": STYLES["tied_projections"],
}


@pytest.mark.parametrize("make", [substitutes.adapt, substitutes.mask], ids=lambda f: f.__name__)
@pytest.mark.parametrize("stack", _STACKS)
def test_a_substitute_computes_what_its_array_does(stack, make):
  """Over two segments with memory, and while decoding."""
  model = tiny.make(**_STACKS[stack], memory_length=LENGTH)
  replaced, dense = substitutes.replace(make, model.params, model.lm.declared[1])
  assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(model.params)))
  tokens = tiny.random_tokens(model.config, 2 * LENGTH)

  @tiny.jit
  def run(params):
    memory, found = model.lm.initial_memory(ROWS), []
    for start in (0, LENGTH):
      log_probs, memory = model.lm.log_probs(params, tokens[:, start:start + LENGTH], memory)
      found.append(log_probs)
    ones = jnp.ones((ROWS, LENGTH), jnp.int32)
    empty = model.lm.initial_memory(ROWS, LENGTH, projected=True)
    _, memory = model.lm.prefill(params, tokens[:, :LENGTH], ones, empty)
    logits, _ = model.lm.decode_step(params, tokens[:, LENGTH], model.lm.start_decoding(params, memory))
    return *found, jax.nn.log_softmax(logits)

  for found, expected in zip(run(replaced), run(dense)):
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("stack", ["rotary", "mixture"])
def test_a_substitute_is_differentiated_like_its_array(stack):
  """An adapter's gradient is the kernel's, with a loss in chunks too."""
  model = tiny.make(**_STACKS[stack], memory_length=0)
  replaced, dense = substitutes.replace(
      lambda kernel, _: substitutes.LowRank(kernel, jnp.zeros_like(kernel)), model.params, model.lm.declared[1])
  tokens = tiny.random_tokens(model.config, LENGTH + 1)
  batch = dict(decoder_input_tokens=tokens[:, :-1], decoder_target_tokens=tokens[:, 1:],
               decoder_segment_ids=np.ones((ROWS, LENGTH), np.int32),
               decoder_loss_weights=np.ones((ROWS, LENGTH), np.float32))

  @tiny.jit
  def gradient(params):
    loss = lambda params: NextToken()(model.lm, params, {}, batch, model.lm.initial_memory(ROWS), None)[0]["loss"].mean
    return jax.grad(loss)(params)

  found, expected = gradient(replaced), gradient(dense)
  adapter = lambda leaf: leaf.change if isinstance(leaf, substitutes.LowRank) else leaf
  found = jax.tree.map(adapter, found, is_leaf=lambda x: isinstance(x, substitutes.LowRank))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)


def test_product_goes_by_what_a_kernel_declares():
  x, kernel = np.random.default_rng(0).normal(size=(2, 3, 4)), np.random.default_rng(1).normal(size=(3, 4, 5))
  of = lambda value, *summed: Kernel(jnp.asarray(value, jnp.float32), summed, jnp.float32)
  x = jnp.asarray(x, jnp.float32)
  np.testing.assert_allclose(parameters.product(x, of(kernel, 0, 1)), np.einsum("bij,ijk->bk", x, kernel), rtol=1e-5)
  np.testing.assert_allclose(parameters.product(x, of(kernel[0], 0)), x @ kernel[0], rtol=1e-5)
  np.testing.assert_allclose(parameters.product(x, of(kernel[0].T, 1)), x @ kernel[0], rtol=1e-5)
  np.testing.assert_allclose(parameters.product(x, of(kernel, 1)), np.einsum("bij,kjl->bikl", x, kernel), rtol=1e-5)
  np.testing.assert_allclose(parameters.product(x, of(kernel[0].T, 0).transposed()), x @ kernel[0], rtol=1e-5)


@pytest.mark.parametrize("stack", _STACKS)
def test_every_parameter_is_declared(stack):
  """With a name for each axis, and what a product sums over among them."""
  shapes, declarations = tiny.make(memory_length=2, **_STACKS[stack]).lm.declared
  found = jax.tree.map(lambda shape, one: (len(shape.shape), one), shapes, declarations)
  for path, (rank, one) in jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda x: isinstance(x, tuple)):
    assert len(one.names) == rank and set(one.summed) <= set(one.names), path
    assert one.is_kernel == (path[-1].key not in ("scale", "bias", "content_bias", "position_bias", "output_bias",
                                                  "wi_bias", "wi_gate_bias", "wo_bias", "router_bias", "cluster_bias",
                                                  *(f"output_bias_{i}" for i in range(3)))), path
