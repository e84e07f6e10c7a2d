import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.models.sums import weighted_mean
from gpt4x.objectives import cross_entropy as objectives
from tests.models import products


def test_cross_entropy_is_the_textbook_sum():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 5)) * 3
  targets = rng.integers(0, 5, (2, 3))
  weights = np.array([[1, 1, 0], [0.5, 0, 1]])
  loss = z_loss = correct = 0.0
  for b in range(2):
    for i in range(3):
      z = np.exp(logits[b, i]).sum()
      loss -= weights[b, i] * np.log(np.exp(logits[b, i, targets[b, i]]) / z)
      z_loss += weights[b, i] * np.log(z) ** 2
      correct += weights[b, i] * (logits[b, i].argmax() == targets[b, i])
  sums = objectives.cross_entropy(jnp.array(logits, jnp.float32), jnp.array(targets), jnp.array(weights))
  for name, value in (("loss", loss), ("z_loss", z_loss), ("accuracy", correct)):
    np.testing.assert_allclose([sums[name].value, sums[name].weight], [value, weights.sum()], rtol=1e-5)


def test_sums_of_parts_are_the_sum_of_the_whole():
  logits = jax.random.normal(jax.random.key(0), (4, 3, 7))
  targets, weights = jnp.ones((4, 3), int), jnp.arange(12.0).reshape(4, 3)
  whole = objectives.cross_entropy(logits, targets, weights)
  parts = [objectives.cross_entropy(logits[i:i + 2], targets[i:i + 2], weights[i:i + 2]) for i in (0, 2)]
  joined = {name: one + parts[1][name] for name, one in parts[0].items()}
  np.testing.assert_allclose(jax.tree.leaves(joined), jax.tree.leaves(whole), rtol=1e-6)


def test_large_logits_stay_finite():
  sums = objectives.cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]), jnp.array([1.0]))
  np.testing.assert_allclose(sums["loss"].value, 2e4)


def linear(rows, length, dim, vocab, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)
  return (draw(rows, length, dim), draw(vocab, dim), draw(vocab), jnp.array(rng.integers(0, vocab, (rows, length))),
          jnp.array(rng.random((rows, length)) < 0.8, jnp.float32))


def plain(hidden, kernel, bias, targets, weights):
  return objectives.cross_entropy(hidden @ kernel.T + bias, targets, weights)


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_a_loss_in_chunks_is_the_loss(chunk):
  """Its sums, and the gradients of its mean, whether or not chunks divide the length."""
  arguments = linear(3, 7, 5, 11)
  chunked = lambda *arguments: objectives.linear_cross_entropy(*arguments, 0.1, chunk)
  mean = lambda function: lambda *arguments: weighted_mean(function(*arguments), {"loss": 1.0, "z_loss": 0.1})
  for function in (lambda one: one(*arguments), lambda one: jax.grad(mean(one), argnums=(0, 1, 2))(*arguments)):
    ours, theirs = function(chunked), function(plain)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6), ours, theirs)


def test_a_loss_in_chunks_keeps_no_logits():
  """What the compiler sets aside for loss and gradient: below a quarter of the plain version's."""
  arguments = linear(4, 128, 16, 4096)
  bytes_of = lambda one: jax.jit(jax.grad(lambda *arguments: one(*arguments)["loss"].value, argnums=(0, 1))).lower(
      *arguments).compile().memory_analysis().temp_size_in_bytes
  chunked = lambda *arguments: objectives.linear_cross_entropy(*arguments, chunk=8)
  assert bytes_of(chunked) < bytes_of(plain) / 4


def test_a_loss_in_chunks_of_bfloat16_is_summed_in_float32():
  """Over many chunks: sums and gradients are as near to those of float32 as rounding their operands allows."""
  hidden, kernel, bias, targets, weights = linear(4, 96, 8, 11)
  hidden, kernel = hidden.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)

  def run(loss, hidden, kernel):
    mean = lambda hidden, kernel, bias: loss(hidden, kernel, bias, targets, weights)["loss"].mean
    return jax.value_and_grad(mean, argnums=(0, 1, 2))(hidden, kernel, bias)

  chunked = functools.partial(run, functools.partial(objectives.linear_cross_entropy, chunk=1))
  assert products.dtypes(chunked, hidden, kernel) == {("bfloat16", "bfloat16", "float32")}
  found = chunked(hidden, kernel)
  expected = run(plain, hidden.astype(jnp.float32), kernel.astype(jnp.float32))
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    one = np.asarray(one, np.float32)
    assert np.linalg.norm(one - other) < 0.004 * np.linalg.norm(other)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
