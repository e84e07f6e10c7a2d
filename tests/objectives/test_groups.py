"""The sums of groups of targets, such as modalities: right, unweighted, and of no consequence for the gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.media.layout import MODALITIES
from gpt4x.models.sums import metrics, weighted_mean
from gpt4x.objectives.cross_entropy import cross_entropy, linear_cross_entropy
from gpt4x.objectives.groups import Groups, without_absent
from gpt4x.objectives.next_token import NextToken
from gpt4x.partitioning import Partitioner
from gpt4x.training.gradients import microbatched, whole
from tests.models import tiny
from tests.objectives.test_objectives import batch_of, MEMORY, MODEL, ROWS

B, L, D, V = 3, 7, 5, 11
NAMES = tuple(f"{name}_{modality}" for modality in MODALITIES for name in ("loss", "accuracy"))


def arguments(seed=0):
  """(hidden, kernel, bias), (targets, weights), modality; of video there is no target, no structure counts."""
  rng = np.random.default_rng(seed)
  targets = rng.integers(0, V, (B, L))
  modality = np.array([0, 0, 0, 1, 1, 1, 2, 2, 4, 4, 4])[targets]
  weights = np.array([1.0, 0.5, 0.25, 1.0, 0.0])[modality] * (rng.random((B, L)) < 0.8)
  draw = lambda *shape: jnp.array(2 * rng.normal(size=shape), jnp.float32)
  return ((draw(B, L, D), draw(V, D), draw(V)), (jnp.array(targets), jnp.array(weights, jnp.float32)),
          Groups.of({"decoder_target_modality": jnp.array(modality)}))


def plain(hidden, kernel, bias, targets, weights, modality=None):
  return cross_entropy(hidden @ kernel.T + bias, targets, weights, modality)


def in_chunks(chunk):
  def loss(hidden, kernel, bias, targets, weights, modality=None):
    return linear_cross_entropy(hidden, kernel, bias, targets, weights, 0.1, chunk, modality)
  return loss


LOSSES = {"plain": plain, "chunks of 3": in_chunks(3), "one chunk": in_chunks(16)}
losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@losses
def test_they_are_the_textbook_s(loss):
  """In float64, a target at a time."""
  (hidden, kernel, bias), (targets, weights), modality = arguments()
  found, index = loss(hidden, kernel, bias, targets, weights, modality), np.argmax(modality.members, -1)
  expected = {name: np.zeros(2) for name in NAMES}
  logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64).T + np.asarray(bias, np.float64)
  for row in range(B):
    for i in range(L):
      if weights[row, i] > 0:
        name, scores = MODALITIES[index[row, i]], logits[row, i]
        nats = np.log(np.exp(scores).sum()) - scores[targets[row, i]]
        expected[f"loss_{name}"] += nats, 1
        expected[f"accuracy_{name}"] += scores.argmax() == targets[row, i], 1
  assert expected["loss_image"][1] > 1 and expected["loss_video"][1] == expected["loss_structure"][1] == 0
  for name, pair in expected.items():
    np.testing.assert_allclose([found[name].value, found[name].weight], pair, rtol=2e-5, err_msg=name)


@losses
def test_gradients_and_other_sums_are_as_without_them(loss):
  factors, tokens, modality = arguments()

  def value(factors, *modality):
    sums = loss(*factors, *tokens, *modality)
    return weighted_mean(sums, {"loss": 1.0, "z_loss": 0.1}), sums

  gradients, sums = jax.grad(value, has_aux=True)(factors, modality)
  expected, plain_sums = jax.grad(value, has_aux=True)(factors)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), gradients, expected)
  assert sums.keys() - plain_sums.keys() == set(NAMES)
  for name, one in plain_sums.items():
    np.testing.assert_allclose([sums[name].value, sums[name].weight], [one.value, one.weight], rtol=1e-6)


def media_batch():
  batch = batch_of()
  modality = (batch["decoder_target_tokens"] % 3).astype(np.int32)
  return batch | {"decoder_target_modality": modality,
                  "decoder_loss_weights": batch["decoder_loss_weights"] * np.float32([1, 0.5, 0.25])[modality]}


def sums_by(gradients, batch, memory):
  loss = lambda params, batch, memory, rng: NextToken()(MODEL.lm, params, {}, batch, memory, rng)
  return tiny.jit(lambda params, batch: gradients(
      lambda *rest: loss(*rest[:3], None), {"loss": 1.0}, params, batch, memory, jax.random.key(0))[:2])(
          MODEL.params, batch)


def test_microbatches_and_meshes_give_the_same():
  memory = NextToken().initial_memory(MODEL.lm, ROWS, MEMORY)
  gradients, sums = sums_by(whole, media_batch(), memory)
  assert set(NAMES) < set(sums)
  mesh = Partitioner(data=2, tensor=2, num_devices=4)
  with mesh.activate():
    placed = {name: mesh.global_array(rows, ROWS) for name, rows in media_batch().items()}
    others = sums_by(whole, placed, memory), sums_by(microbatched(2), media_batch(), memory)
  for other_gradients, other_sums in others:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), other_gradients, gradients)
    for name, one in sums.items():
      found = other_sums[name]
      np.testing.assert_allclose([found.value, found.weight], [one.value, one.weight], rtol=1e-4, err_msg=name)


def test_they_add_up_to_the_loss_where_all_weigh_one():
  (hidden, kernel, bias), (targets, weights), modality = arguments()
  sums = plain(hidden, kernel, bias, targets, (weights > 0).astype(jnp.float32), modality)
  for kind in ("loss", "accuracy"):
    parts = [sums[f"{kind}_{name}"] for name in MODALITIES]
    np.testing.assert_allclose(sum(part.value for part in parts), sums[kind].value, rtol=1e-6)
    assert sum(part.weight for part in parts) == sums[kind].weight


def test_what_is_absent_is_left_out():
  (hidden, kernel, bias), (targets, weights), modality = arguments()
  sums = plain(hidden, kernel, bias, targets, weights, modality)
  found = without_absent({name: float(value) for name, value in metrics(sums).items()})
  assert found.keys() == {"loss", "z_loss", "accuracy", *(
      f"{kind}_{name}" for kind in ("loss", "accuracy") for name in ("text", "image", "audio"))}
  # What is sure, and what is never right, are there; and so is what has no modalities.
  kept = {"loss": 0.0, "accuracy": 0.0, "loss_text": 0.0, "accuracy_text": 1.0, "loss_audio": 3.0,
          "accuracy_audio": 0.0, "loss_image": float("nan"), "accuracy_image": 0.0}
  assert without_absent(kept) == kept
