"""Pruning: what becomes zero, what stays, and that what moves makes up for what goes."""

from flax import traverse_util
import jax
import numpy as np
import pytest

from gpt4x.compression import calibration, pruning, second_order, structured
from gpt4x.compression.pruning import Sparsity
from gpt4x.errors import UserError
from gpt4x.models.parameters import map_declared
from tests.models import tiny
from tests.models.tiny import LENGTH, ROWS, STYLES

RNG = np.random.default_rng(0)


def batches(config, count=2, seed=0):
  tokens = tiny.random_tokens(config, count * LENGTH + 1)
  for start in range(0, count * LENGTH, LENGTH):
    yield dict(decoder_input_tokens=tokens[:, start:start + LENGTH],
               decoder_target_tokens=tokens[:, start + 1:start + LENGTH + 1],
               decoder_segment_ids=np.ones((ROWS, LENGTH), np.int32),
               decoder_loss_weights=np.ones((ROWS, LENGTH), np.float32))


@pytest.fixture(scope="module", name="problem")
def _problem():
  """Inputs that depend on each other, as hidden states do, their second moments, and a kernel."""
  inputs = RNG.normal(size=(400, 24)) @ RNG.normal(size=(24, 64)) + 0.1 * RNG.normal(size=(400, 64))
  return inputs, inputs.T @ inputs, RNG.normal(size=(64, 12))


def error(problem, made):
  inputs, _, kernel = problem
  return np.square(inputs @ (kernel - made)).sum()


def test_rounding_makes_up_for_its_errors(problem):
  _, moments, kernel = problem
  nearest = lambda row, _: np.round(row * 2) / 2
  made = second_order.rounded(kernel, moments, nearest)
  np.testing.assert_array_equal(made, np.round(made * 2) / 2)
  assert error(problem, made) < 0.5 * error(problem, nearest(kernel, 0))


def test_rounding_of_independent_inputs_is_to_the_nearest():
  kernel = RNG.normal(size=(150, 5))
  made = second_order.rounded(kernel, np.diag(RNG.uniform(1, 2, 150)), lambda row, _: np.round(row))
  np.testing.assert_array_equal(made, np.round(kernel))


def test_one_row_is_made_up_for_as_least_squares_would(problem):
  """Only the first row is settled, to zero: the others then are the least squares solution."""
  inputs, _, _ = problem
  inputs = inputs[:, :8] + RNG.normal(size=(400, 8))
  kernel, moments = RNG.normal(size=(8, 3)), inputs.T @ inputs
  upper = second_order.pivots(moments)
  moved = kernel[1:] - np.outer(upper[0, 1:], kernel[0] / upper[0, 0])
  damped = moments + second_order._DAMPING * np.diagonal(moments).mean() * np.eye(8)
  expected = kernel[1:] + np.linalg.solve(damped[1:, 1:], damped[1:, :1] @ kernel[:1])
  np.testing.assert_allclose(moved, expected, atol=1e-9)


@pytest.mark.parametrize("sparsity", ["50%", "2:4"])
def test_sparsegpt_errs_less_than_wanda_and_that_less_than_magnitude(problem, sparsity):
  inputs, moments, kernel = problem
  inputs = inputs * RNG.uniform(0.1, 3, 64)
  problem = inputs, inputs.T @ inputs, kernel
  made = {method: pruning._one(kernel, problem[1], method, Sparsity.of(sparsity)) for method in pruning.METHODS}
  assert all(np.mean(one == 0) == 0.5 for one in made.values())
  if sparsity == "2:4":
    assert all(np.all((one.reshape(16, 4, 12) != 0).sum(1) == 2) for one in made.values())
  errors = [error(problem, made[name]) for name in ("sparsegpt", "wanda", "magnitude")]
  assert errors[0] < 0.7 * errors[1] and errors[1] < 0.9 * errors[2]


@pytest.mark.parametrize("style", ["scanned", "apart", "shared", "mixture", "adaptive"])
def test_moments_are_those_of_what_kernels_multiply(style):
  """By captured activations, over two segments with memory; the deterministic R included."""
  styles = {"scanned": {}, "apart": dict(scan_layers=False), "shared": dict(num_layers=4, share_layers=2),
            "mixture": STYLES["mixture"], "adaptive": STYLES["adaptive"]}
  made = tiny.make(**styles[style], memory_length=LENGTH)
  found = calibration.moments(made.lm, made.params, batches(made.config), LENGTH)
  if style in ("scanned", "apart"):
    name = "layers.0.output"
    memory, expected, key = made.lm.initial_memory(ROWS), 0, 0
    for batch in batches(made.config):
      embedded = made.lm.forward(made.params, batch["decoder_input_tokens"], memory, batch["decoder_segment_ids"],
                                 capture=["embedding", name, "final"])
      rows = np.asarray(embedded.captures["embedding"], np.float64).reshape(-1, made.config.embed_dim)
      past = np.asarray(memory.layers[0], np.float64).reshape(-1, made.config.embed_dim)
      expected, key = expected + rows.T @ rows, key + past.T @ past
      memory = embedded.memory
    first = lambda name: (found["layers"]["attention"][name][0] if style == "scanned" else
                          found["layers_0"]["attention"][name])
    np.testing.assert_allclose(first("query"), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first("key"), expected + key, rtol=1e-4, atol=1e-4)
    assert first("relative_key").any()
  for path, one in traverse_util.flatten_dict(found).items():
    if path[-2:-1] == ("moe",) and path[-1] in ("wi", "wo"):
      assert not one.any(), "experts' inputs are sorted, and not seen"
    elif path[-1] in ("query", "wo"):
      assert one.any(), path


@pytest.mark.parametrize("style", [{}, STYLES["modern"], STYLES["mixture"], dict(scan_layers=False)])
@pytest.mark.parametrize("method", pruning.METHODS)
def test_a_model_of_any_stack_is_pruned(style, method):
  made = tiny.make(**style, memory_length=LENGTH)
  _, declarations = made.lm.declared
  moments = None if method == "magnitude" else calibration.moments(made.lm, made.params, batches(made.config), LENGTH)
  found = pruning.pruned(made.params, moments, declarations, method, Sparsity.of("50%"))
  def check(leaf, declaration):
    share = np.mean(np.asarray(leaf) == 0)
    if declaration.is_hidden:
      assert abs(share - 0.5) < 0.07
    return share
  map_declared(check, found, declarations)
  assert np.isfinite(made.lm.log_probs(found, tiny.random_tokens(made.config, LENGTH))[0]).all()


@pytest.mark.parametrize("text", ["50", "0%", "100%", "4:2", "2:2", "half", "", "-5%"])
def test_what_is_no_sparsity(text):
  with pytest.raises(UserError, match="is no sparsity: write a share such as 50%, or how many of so many stay"):
    Sparsity.of(text)


_PARTS = {
    "heads": ("heads", dict(num_heads=4, head_dim=4)),
    "heads of own biases": ("heads", dict(num_heads=4, head_dim=4, untie_biases=True, norm_position="pre")),
    "groups": ("heads", dict(num_heads=4, num_kv_heads=2, head_dim=4, scan_layers=False)),
    "heads with biases and norms": ("heads", STYLES["heads"]),
    "mlp": ("mlp", dict(mlp_dim=16)),
    "gated mlp": ("mlp", {**STYLES["modern"], "mlp_dim": 16}),
    "experts": ("experts", STYLES["mixture"]),
    "layers": ("layers", dict(num_layers=4)),
    "layers apart": ("layers", dict(num_layers=4, scan_layers=False)),
}


@pytest.mark.parametrize("case", _PARTS)
def test_a_smaller_model_computes_what_the_large_one_does_without_what_went(case):
  """Zeros in the place of what went, in the large model, give the small one's numbers."""
  part, style = _PARTS[case]
  made = tiny.make(**style, memory_length=LENGTH)
  assess = structured.influences if part == "layers" else structured.sensitivities
  found = assess(made.lm, made.params, batches(made.config), LENGTH)
  model, params = structured.smaller(made.lm, made.params, part, 0.5, found)
  shapes, _ = model.declared
  assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, params)
  assert model.config.num_params() < made.config.num_params()
  if part in ("experts", "layers"):  # Fewer experts share the weights anew; fewer layers are no layers of zeros.
    return
  silenced = _without(made, part, found)
  tokens = tiny.random_tokens(made.config, LENGTH)
  expected, _ = tiny.jit(made.lm.log_probs)(silenced, tokens)
  np.testing.assert_allclose(tiny.jit(model.log_probs)(params, tokens)[0], expected, atol=1e-5)


def _without(made, part, found):
  """The large model's parameters with zeros where the half that matters least writes to the residual stream."""
  units = made.config.num_kv_heads if part == "heads" else made.config.mlp_dim
  flat = dict(traverse_util.flatten_dict(made.params))
  scores = {path: one.reshape(*one.shape[:-1], units, -1).sum(-1) for path, one in found.items()
            if path[-2] == ("attention" if part == "heads" else "mlp")}
  if part == "heads" and not made.config.untie_biases and made.config.positions == "relative":
    total = sum(one.reshape(-1, units).sum(0) for one in scores.values())
    scores = {path: np.broadcast_to(total, one.shape) for path, one in scores.items()}
  for path, one in scores.items():
    least = np.argsort(one, -1)[..., :units // 2]
    mask = np.ones(one.shape)
    np.put_along_axis(mask, least, 0, -1)
    leaf = flat[path]
    axis = leaf.ndim - (3 if part == "heads" else 2)
    mask = np.repeat(mask, leaf.shape[axis] // units, -1)
    flat[path] = leaf * mask.reshape(*mask.shape, *[1] * (leaf.ndim - mask.ndim))
  return traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize("part, style, message", [
    ("layers", dict(num_layers=4, share_layers=2), "--prune=layers needs layers of one kind"),
    ("mlp", STYLES["mixture"], "--prune=mlp is for models without experts"),
    ("experts", {}, "--prune=experts needs a mixture of experts")])
def test_parts_that_a_model_has_not(part, style, message):
  with pytest.raises(UserError, match=message):
    structured.check(tiny.make(**style).config, part)
