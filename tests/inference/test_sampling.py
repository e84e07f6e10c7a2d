import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.sampling import Sampling

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))


def allowed(sampling):
  return np.isfinite(np.asarray(sampling.filter(LOGITS))).tolist()


def test_temperature_zero_takes_the_likeliest():
  np.testing.assert_array_equal(Sampling(temperature=0.0)(LOGITS, jax.random.key(0)), [0, 3])


def test_top_k_and_top_p_keep_the_likeliest():
  assert allowed(Sampling(top_k=2)) == [[True, True, False, False], [False, False, True, True]]
  assert allowed(Sampling(top_k=9)) == [[True] * 4] * 2
  assert allowed(Sampling(top_p=0.6)) == [[True, True, False, False], [False, False, True, True]]
  assert allowed(Sampling(top_p=0.4)) == [[True, False, False, False], [False, False, False, True]]
  assert allowed(Sampling(top_p=0.0)) == [[True, False, False, False], [False, False, False, True]]
  assert allowed(Sampling(top_p=1.0)) == [[True] * 4] * 2


def test_frequencies_follow_the_tempered_distribution():
  draws = jax.vmap(lambda key: Sampling(temperature=0.5)(LOGITS, key))(jax.random.split(jax.random.key(1), 4000))
  expected = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
  frequencies = np.bincount(np.asarray(draws[:, 0]), minlength=4) / 4000
  np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.03)
