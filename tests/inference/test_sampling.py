import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.inference.sampling import Sampling, Settings, Tokens, tokens_of

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))
KEYS = jax.random.split(jax.random.key(0), 2)


def allowed(sampling):
  return np.isfinite(np.asarray(sampling.filter(LOGITS))).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-45, 1e-38, 1.2e-38, 1e-30, 1e-10])
def test_the_coldest_temperatures_take_the_likeliest(temperature):
  """Whatever the logits: float32 divided by such a number is infinite, and 0 / 0 is none. The first two are as likely
  as can be told apart, the last may not be drawn."""
  near = jnp.array([[9.0, 9.000001, -3e38, -jnp.inf], [-1e-6, -2e-6, -70.0, -jnp.inf]])
  for logits, expected in ((LOGITS, [0, 3]), (near, [1, 0]), (1e30 * near, [1, 0])):
    for filters in ({}, {"top_k": 3}, {"top_p": 0.9}):
      np.testing.assert_array_equal(Sampling(temperature, **filters)(logits, KEYS), expected)


@pytest.mark.parametrize("temperature", [1e10, 1e39, 1e300])
def test_the_hottest_temperatures_draw_all_that_may_be_drawn_alike(temperature):
  logits = jnp.array([[3.0, -jnp.inf, 0.0, -50.0]])
  draws = jax.vmap(lambda key: Sampling(temperature)(logits, key[None])[0])(jax.random.split(jax.random.key(1), 3000))
  np.testing.assert_allclose(np.bincount(np.asarray(draws), minlength=4) / 3000, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


@pytest.mark.parametrize("options, name", [
    *(({"temperature": value}, "temperature") for value in (float("nan"), float("inf"), -0.1)),
    *(({"top_p": value}, "top_p") for value in (float("nan"), float("inf"), -0.1, 1.1)),
    *(({"top_k": value}, "top_k") for value in (0, -1, float("nan")))])
def test_a_setting_outside_its_range(options, name):
  with pytest.raises(UserError, match=f"^{name} = .* must be "):
    Sampling(**options)


def test_a_row_s_draw_is_decided_by_its_own_key():
  rows, keys = jnp.tile(LOGITS, (8, 1)), jax.random.split(jax.random.key(2), 16)
  together = Sampling(top_k=3)(rows, keys)
  alone = [Sampling(top_k=3)(rows[i:i + 1], keys[i:i + 1])[0] for i in range(16)]
  np.testing.assert_array_equal(together, alone)
  assert len(set(np.asarray(together).tolist())) > 1


def test_top_k_and_top_p_keep_the_likeliest():
  assert allowed(Sampling(top_k=2)) == [[True, True, False, False], [False, False, True, True]]
  assert allowed(Sampling(top_k=9)) == [[True] * 4] * 2
  assert allowed(Sampling(top_p=0.6)) == [[True, True, False, False], [False, False, True, True]]
  assert allowed(Sampling(top_p=0.4)) == [[True, False, False, False], [False, False, False, True]]
  assert allowed(Sampling(top_p=0.0)) == [[True, False, False, False], [False, False, False, True]]
  assert allowed(Sampling(top_p=1.0)) == [[True] * 4] * 2


def test_frequencies_follow_the_tempered_distribution():
  draws = jax.vmap(lambda key: Sampling(temperature=0.5)(LOGITS, jax.random.split(key)))(
      jax.random.split(jax.random.key(1), 4000))
  expected = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
  frequencies = np.bincount(np.asarray(draws[:, 0]), minlength=4) / 4000
  np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.03)


LEGAL = jnp.array([[False, True, False, True], [True, False, False, True]])


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(0.0), Sampling(1e-30), Sampling(1e30), Sampling(top_k=1), Sampling(top_p=0.1),
    Sampling(0.5, top_k=2, top_p=0.9)], ids=str)
def test_only_what_is_legal_is_drawn(sampling):
  keys = jax.random.split(jax.random.key(3), 200)
  draws = np.asarray(jax.vmap(lambda key: sampling(LOGITS, jax.random.split(key), LEGAL))(keys))
  assert set(draws[:, 0]) <= {1, 3} and set(draws[:, 1]) <= {0, 3}


def test_a_mask_comes_behind_the_filters():
  """What they keep and is legal has the odds of before; where that is nothing, they choose among what is legal."""
  def frequencies(legal, **filters):
    draw = jax.vmap(lambda key: Sampling(2.0, **filters)(LOGITS[:1], key[None], jnp.array([legal]))[0])
    return np.bincount(np.asarray(draw(jax.random.split(jax.random.key(4), 4000))), minlength=4) / 4000

  odds = lambda *kept: np.array([p**0.5 if i in kept else 0.0 for i, p in enumerate([0.5, 0.3, 0.15, 0.05])])
  for legal, filters, kept in (
      ([True, True, True, True], {"top_k": 3}, (0, 1, 2)),
      ([False, True, True, True], {"top_k": 3}, (1, 2)),  # Not 3, the third likeliest of what is legal.
      ([False, True, True, True], {"top_p": 0.6}, (1,)),
      ([False, False, True, True], {"top_k": 2}, (2, 3)),  # Nothing is left: the two likeliest.
      ([False, False, True, True], {"top_p": 0.6}, (2,)),
      ([False, False, True, True], {}, (2, 3))):
    np.testing.assert_allclose(frequencies(legal, **filters), odds(*kept) / odds(*kept).sum(), atol=0.03)


def test_a_mask_of_everything_changes_no_draw():
  for sampling in (Sampling(), Sampling(0.7, top_k=3), Sampling(top_p=0.6), Sampling(0.0)):
    keys = jax.random.split(jax.random.key(5), 2)
    np.testing.assert_array_equal(sampling(LOGITS, keys, jnp.ones((2, 4), bool)), sampling(LOGITS, keys))


# Rows, each with settings of its own.

MIXED = [Sampling(0.0), Sampling(0.7, top_k=5), Sampling(1.3, top_p=0.8), Sampling(top_k=300, top_p=0.999),
         Sampling(2.0, min_p=0.3), Sampling(0.5, top_k=40, top_p=0.6, min_p=0.01), Sampling()]


def kept(logits, one):
  """The ids that filters leave, from their papers, in float64."""
  chances = np.exp(logits / one.temperature - np.max(logits / one.temperature))
  order = np.argsort(-chances, kind="stable")
  left = [i for i in order if chances[i] >= one.min_p * chances[order[0]]][:one.top_k]
  total, ids = sum(chances[i] for i in left), []
  for i in left:
    if one.top_p is not None and sum(chances[i] for i in ids) >= one.top_p * total:
      break
    ids.append(i)
  return sorted(ids)


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_each_row_has_its_own_filters(spread):
  """Of few likely tokens and of many, so that the likeliest 128 tell and do not tell."""
  size = 700
  logits = np.random.default_rng(0).normal(size=(len(MIXED), size)).astype(np.float32) * spread
  settings = Settings.of(MIXED)
  found = jax.jit(lambda settings, logits: settings._kept(logits))(settings, logits)
  for row, one in enumerate(MIXED):
    if one.temperature:
      np.testing.assert_array_equal(np.flatnonzero(np.isfinite(found[row])), kept(logits[row].astype(float), one))
  keys = jax.random.split(jax.random.key(0), len(MIXED))
  together = jax.jit(Settings.draw)(settings, logits, keys)
  for row, one in enumerate(MIXED):
    assert together[row] == one(logits[row:row + 1], keys[row:row + 1])[0]
  assert together[0] == logits[0].argmax()


def test_penalties_and_biases():
  """As their definitions have them, for each row by itself."""
  rows = [Sampling(), Sampling(presence_penalty=0.5), Sampling(frequency_penalty=-0.25), Sampling(
      repetition_penalty=2.0), Sampling(bias=((4, 1.5), (1, -100.0))), Sampling(
          1.0, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5, bias=((0, 3.0),))]
  prompt, drawn, logits = [1, 3], [2, 2, 3], np.array([0.5, -1.0, 2.0, 1.0, -3.0], np.float32)
  tables = [tokens_of(prompt, one, 5) for one in rows]
  tokens = Tokens(*(jnp.concatenate(parts) for parts in zip(*((one.drawn, one.prompted, one.bias) for one in tables))))
  for token in drawn:
    tokens = tokens.after(np.full(len(rows), token))
  found = tokens.adjusted(np.tile(logits, (len(rows), 1)), Settings.of(rows))
  for row, one in enumerate(rows):
    expected = logits.astype(float)
    for i in {*prompt, *drawn}:
      expected[i] = expected[i] / one.repetition_penalty if expected[i] > 0 else expected[i] * one.repetition_penalty
    for i in set(drawn):
      expected[i] -= one.presence_penalty + drawn.count(i) * one.frequency_penalty
    for i, value in one.bias:
      expected[i] += value
    np.testing.assert_allclose(found[row], expected, rtol=1e-6)


@pytest.mark.parametrize("options", [
    {"min_p": 1.1}, {"min_p": float("nan")}, {"presence_penalty": float("inf")}, {"frequency_penalty": float("nan")},
    {"repetition_penalty": 0.0}, {"repetition_penalty": float("inf")}, {"bias": ((1, float("nan")),)}])
def test_numbers_that_are_none(options):
  with pytest.raises(UserError, match=f"^{next(iter(options))} = .* must "):
    Sampling(**options)
