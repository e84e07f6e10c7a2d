import jax
import jax.numpy as jnp
import numpy as np

from gpt4x import objectives


def test_cross_entropy_is_the_textbook_sum():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 5)) * 3
  targets = rng.integers(0, 5, (2, 3))
  weights = np.array([[1, 1, 0], [0.5, 0, 1]])
  loss = z_loss = correct = 0.0
  for b in range(2):
    for l in range(3):
      z = np.exp(logits[b, l]).sum()
      loss -= weights[b, l] * np.log(np.exp(logits[b, l, targets[b, l]]) / z)
      z_loss += 0.1 * weights[b, l] * np.log(z) ** 2
      correct += weights[b, l] * (logits[b, l].argmax() == targets[b, l])
  sums = objectives.cross_entropy(jnp.array(logits, jnp.float32), jnp.array(targets), jnp.array(weights), z_loss=0.1)
  np.testing.assert_allclose(jax.tree.leaves(sums), [loss, z_loss, correct, weights.sum()], rtol=1e-5)
  np.testing.assert_allclose(sums.objective, loss + z_loss, rtol=1e-5)


def test_sums_of_parts_are_the_sum_of_the_whole():
  logits = jax.random.normal(jax.random.key(0), (4, 3, 7))
  targets, weights = jnp.ones((4, 3), int), jnp.arange(12.0).reshape(4, 3)
  whole = objectives.cross_entropy(logits, targets, weights)
  parts = [objectives.cross_entropy(logits[i:i + 2], targets[i:i + 2], weights[i:i + 2]) for i in (0, 2)]
  np.testing.assert_allclose(jax.tree.leaves(parts[0] + parts[1]), jax.tree.leaves(whole), rtol=1e-6)


def test_large_logits_stay_finite():
  sums = objectives.cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]), jnp.array([1.0]))
  np.testing.assert_allclose(sums.loss, 2e4)
