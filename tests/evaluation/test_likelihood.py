import functools
import math
import types

import jax
import numpy as np
import pytest

from gpt4x.evaluation import likelihood
from gpt4x.media import exact
from gpt4x.media.layout import MODALITIES
from gpt4x.models.sums import Sum
from gpt4x.partitioning import Partitioner
from tests.evaluation import media_tasks
from tests.media import codecs as learned_codecs


@pytest.mark.parametrize("loss", [0.0, 5.5, 699.0, 709.0, 710.0, 1e6, 1e300, math.inf, math.nan])
def test_perplexity_of_any_loss(loss):
  """e^loss, which from 710 on no float holds."""
  found = likelihood._means({"loss": Sum(np.float64(loss * 4), np.float64(4))}, {"": 8.0}, "here")
  with np.errstate(over="ignore"):
    expected = np.exp(np.longdouble(loss)).astype(np.float64)
  np.testing.assert_allclose(found["perplexity"], math.inf if 700 < loss < 710 else expected, rtol=1e-12)
  np.testing.assert_allclose(found["bits_per_byte"], loss * 4 / np.log(2) / 8)


def sums_of(**parts):
  """Sums by modality: (nats, targets) each; the loss is weighted, as it may be."""
  found = {"loss": Sum(np.float64(7.0), np.float64(3.5)), "accuracy": Sum(np.float64(1.0), np.float64(3.5))}
  for name in ("text", "image", "audio", "video", "structure"):
    nats, count = parts.get(name, (0.0, 0.0))
    found[f"loss_{name}"] = Sum(np.float64(nats), np.float64(count))
    found[f"accuracy_{name}"] = Sum(np.float64(0.0), np.float64(count))
  return found


def test_bits_are_of_their_own_tokens():
  """Of text by its bytes alone, of pixels and samples by what they stand for; of nothing that was lost."""
  sums = sums_of(text=(10.0, 8), image=(60.0, 48), audio=(30.0, 20), structure=(5.0, 9))
  found = likelihood._means(sums, {"": 7.0}, "here", units={"image": 1.0, "audio": 0.5})
  bit = np.log(2)
  np.testing.assert_allclose(found["bits_per_byte"], 10 / bit / 7)
  np.testing.assert_allclose(found["bits_per_dim"], 60 / bit / 48)
  np.testing.assert_allclose(found["bits_per_sample"], 30 / bit / 10)  # Two codes each.
  assert found["tokens"] == 8 + 48 + 20 + 9 and found["loss"] == 2.0
  assert found["loss_image"] == 60 / 48 and "loss_video" not in found and "accuracy_video" not in found
  lossy = likelihood._means(sums, {"": 7.0}, "here", units={})
  assert not {"bits_per_dim", "bits_per_sample"} & lossy.keys()
  assert lossy == {name: value for name, value in found.items() if name not in ("bits_per_dim", "bits_per_sample")}
  absent = likelihood._means(sums_of(text=(10.0, 8)), {"": 7.0}, "here", units={"image": 1.0, "audio": 0.5})
  assert not {"bits_per_dim", "bits_per_sample"} & absent.keys()


def test_bits_of_a_mixture_of_rows_are_those_of_each_part():
  one = lambda value, weight: Sum(np.float64(value), np.float64(weight))
  sums = {"loss": one(30, 20), "loss_text": one(12, 10), "accuracy_text": one(1, 10), "loss_spans": one(18, 10),
          "accuracy_spans": one(2, 10), "loss_absent": one(0, 0), "accuracy_absent": one(0, 0)}
  found = likelihood._means(sums, {"": 16.0, "text": 6.0, "spans": 9.0, "absent": 0.0}, "here")
  np.testing.assert_allclose(found["bits_per_byte_text"], 12 / np.log(2) / 6)
  np.testing.assert_allclose(found["bits_per_byte_spans"], 18 / np.log(2) / 9)
  assert "bits_per_byte" not in found and not any("absent" in name for name in found) and found["loss_text"] == 1.2


def test_tokens_of_a_mixture_are_counted_whatever_they_weigh():
  one = lambda value, weight: Sum(np.float64(value), np.float64(weight))
  sums = {"loss": one(21, 15), "loss_text": one(12, 10), "accuracy_text": one(1, 10), "loss_spans": one(18, 10),
          "accuracy_spans": one(2, 10)}
  assert likelihood._means(sums, {"": 16.0, "text": 6.0, "spans": 9.0}, "here")["tokens"] == 20


def test_bytes_are_counted_by_part():
  batch = {"decoder_target_tokens": np.array([[1, 2], [2, 2]]), "decoder_loss_weights": np.array([[0.5, 0.0], [1, 1]]),
           "decoder_part/text": np.array([[1, 1], [0, 0]]), "decoder_part/spans": np.array([[0, 0], [1, 1]])}
  found = likelihood.target_bytes(np.array([0, 3, 5]), batch)
  assert {name: float(value) for name, value in found.items()} == {"": 13, "text": 3, "spans": 10}
  del batch["decoder_part/text"], batch["decoder_part/spans"]
  assert float(likelihood.target_bytes(np.array([0, 3, 5]), batch)[""]) == 11.5


def test_units_are_of_codecs_that_lose_nothing():
  lossy = types.SimpleNamespace(exact=False, units_per_cell=16, num_codes=(1000,))
  codecs = {"image": exact.RgbPixels(), "audio": exact.Pcm(8000), "video": lossy}
  units = lambda codecs: likelihood._units_per_token(types.SimpleNamespace(codecs=codecs))
  assert units(codecs) == {"image": 1.0, "audio": 0.5}
  assert units(codecs | {"image": lossy, "audio": None}) == {} == likelihood._units_per_token(object())
  assert units({name: learned_codecs.codec(name) for name in ("image", "audio", "video")}) == {}


@functools.cache
def evaluated(converter, devices=1):
  """(metrics, batches) of an untrained model on captions and pictures, and on sounds."""
  pairs = [*media_tasks.to_image(5), (["hum"], [media_tasks.sound(6, 0)]), (["only text"], ["and more"])]
  with media_tasks.registered("evaluated_for_test", pairs, inputs=converter == "prefix_lm") as name:
    trial = media_tasks.experiment(name, converter)
    params = jax.tree.map(lambda leaf: 3 * leaf, trial.model.init(jax.random.key(0)))
    mesh = Partitioner(data=devices, num_devices=devices)
    found = likelihood.Evaluator(trial, mesh, "validation")(params)
    return found, params, list(trial.data.evaluation("validation"))


@pytest.mark.parametrize("converter", ["lm", "prefix_lm"])
def test_an_evaluation_by_modality(converter):
  """Against the model's own log-probabilities, in float64, a target at a time."""
  found, params, batches = evaluated(converter)
  nats, counts, hits, weighted, weight, num_bytes = {}, {}, {}, 0.0, 0.0, 0
  model, vocabulary = media_tasks.MODEL, media_tasks.VOCABULARY
  for batch in batches:
    logits, _ = model.logits(params, batch["decoder_input_tokens"], model.initial_memory(4, 0),
                             batch["decoder_segment_ids"], batch.get("decoder_causal_attention"))
    scores = np.asarray(logits, np.float64)
    log_probs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    for row, i in zip(*np.nonzero(batch["decoder_segment_ids"])):
      target = batch["decoder_target_tokens"][row, i]
      if converter == "prefix_lm" and batch["decoder_causal_attention"][row].sum() - 1 > i:
        continue
      name = MODALITIES[vocabulary.modality[target]]
      nats[name] = nats.get(name, 0) - log_probs[row, i, target]
      counts[name] = counts.get(name, 0) + 1
      hits[name] = hits.get(name, 0) + (log_probs[row, i].argmax() == target)
      weighted -= log_probs[row, i, target] * vocabulary.loss_weights[target]
      weight += vocabulary.loss_weights[target]
      num_bytes += 3 <= target < 259
  assert counts.keys() == {"text", "image", "audio", "structure"} and counts["image"] == 5 * 16
  expected = {"loss": weighted / weight, "tokens": sum(counts.values()),
              "bits_per_byte": nats["text"] / np.log(2) / num_bytes,
              "bits_per_dim": nats["image"] / np.log(2) / (5 * 16),
              "bits_per_sample": nats["audio"] / np.log(2) / 6}
  for name, count in counts.items():
    expected |= {f"loss_{name}": nats[name] / count, f"accuracy_{name}": hits[name] / count}
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)
  assert not [name for name in found if "video" in name]


def test_devices_evaluate_alike():
  one, _, _ = evaluated("lm")
  four, _, _ = evaluated("lm", 4)
  assert one.keys() == four.keys()
  for name, value in one.items():
    np.testing.assert_allclose(four[name], value, rtol=2e-5, err_msg=name)
