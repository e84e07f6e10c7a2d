"""Shuffled media: each example has those of another, nothing else changes, and a model that sees them notices."""

import collections

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data.dataset import Dataset, host_rows
from gpt4x.errors import UserError
from gpt4x.evaluation import shuffled_media
from gpt4x.evaluation.likelihood import Evaluator
from gpt4x.evaluation.task_metrics import TaskMetrics
from gpt4x.media.medium import Image
from gpt4x.partitioning import Partitioner
from tests.evaluation import media_tasks
from tests.evaluation.media_tasks import experiment, image, registered, sound, VOCABULARY


def read(pairs, rows=None, **options):
  """(as it is, shuffled) batches of a task of these pairs."""
  with registered("shuffled_for_test", pairs) as name:
    data = Dataset(experiment(name, **options).dataset)
    return list(data.evaluation("validation", rows)), list(shuffled_media.batches(data, "validation", rows))


def parts_of(batches):
  """(inputs, targets) of each example in text and media, the latter as bytes."""
  found = []
  for batch in batches:
    for tokens, seen in zip(batch["decoder_target_tokens"], batch["decoder_causal_attention"]):
      if seen.any():
        cut = int(seen.sum()) - 1
        found.append(tuple([part if isinstance(part, str) else
                            (part.pixels if isinstance(part, Image) else part.samples).tobytes()
                            for part in VOCABULARY.decode_parts(ids)] for ids in (tokens[:cut], tokens[cut:])))
  return found


def questions(count, sounds=False):
  """Three about each picture, or sound of another length, in a row."""
  medium = lambda i: sound(2 + i % 5, i) if sounds else image(media_tasks.label_of(i), i)
  return [(["about ", medium(i // 3), f" {i % 3}?"], [f"a{i}"]) for i in range(count)]


@pytest.mark.parametrize("sounds", [False, True])
def test_each_example_has_the_media_of_another(sounds):
  """Though three in a row have the same; the multiset of media stays, and so do question and answer."""
  before, after = map(parts_of, read(questions(15, sounds), lengths={"inputs": 60, "targets": 6}))
  assert len(before) == len(after) == 15
  medium = lambda example: example[0][1]
  for one, other in zip(before, after):
    assert medium(one) != medium(other)
    assert (one[0][0], one[0][2], one[1]) == (other[0][0], other[0][2], other[1])
  assert collections.Counter(map(medium, before)) == collections.Counter(map(medium, after))


def test_rows_are_what_seqio_makes_of_such_examples():
  lengths = {"inputs": 60, "targets": 6}
  before, after = read(questions(6, sounds=True), lengths=lengths)
  examples = []
  for batch in after:
    for tokens, seen in zip(batch["decoder_target_tokens"], batch["decoder_causal_attention"]):
      if seen.any():
        cut = int(seen.sum()) - 1
        examples.append({"inputs": tokens[:cut], "targets": tokens[cut:][tokens[cut:] > 0]})
  made = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature={
      name: tf.TensorSpec([None], tf.int32) for name in lengths})
  expected = list(seqio.PrefixLMFeatureConverter(pack=False)(made, lengths).as_numpy_iterator())
  rows = [{name: values[row] for name, values in batch.items()} for batch in after for row in range(4)]
  weights = VOCABULARY.loss_weights
  for row, one in zip(rows, expected):
    targets = one["decoder_target_tokens"]
    one = one | {"decoder_loss_weights": one["decoder_loss_weights"] * weights[targets],
                 "decoder_segment_ids": targets > 0, "decoder_target_modality": VOCABULARY.modality[targets]}
    assert row.keys() == one.keys()
    for name, values in one.items():
      np.testing.assert_array_equal(row[name], values, name)
      assert row[name].dtype == before[0][name].dtype
  assert all(not values.any() for row in rows[6:] for values in row.values()), "padding stays padding"


def test_hosts_shuffle_alike():
  _, whole = read(questions(6), lengths={"inputs": 60, "targets": 6})
  shares = [read(questions(6), host_rows(4, host, 2), lengths={"inputs": 60, "targets": 6})[1] for host in range(2)]
  for batch, pieces in zip(whole, zip(*shares, strict=True), strict=True):
    for name, values in batch.items():
      np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), values)


def test_several_media_move_together_and_kinds_do_not_mix():
  pairs = [([image("right", i), "and", sound(3, i)], ["x"]) for i in range(4)]
  pairs += [([image("below", 10 + i)], ["y"]) for i in range(4)] + [(["no media"], ["z"])]
  before, after = map(parts_of, read(pairs, lengths={"inputs": 80, "targets": 6}))
  assert after[8] == before[8]
  for group in (slice(0, 4), slice(4, 8)):
    pictures = [example[0] for example in before[group]]
    for one, other in zip(before[group], after[group]):
      assert one[0] != other[0] and other[0] in pictures and one[1] == other[1]


def test_inputs_that_grow_are_cut_as_all_inputs_are():
  pairs = [(["q" * 20, sound(2, 0)], ["ab"]), (["q", sound(14, 1)], ["ab"])]
  _, [batch] = read(pairs, lengths={"inputs": 32, "targets": 4})
  assert (batch["decoder_causal_attention"].sum(1) - 1).tolist()[:2] == [32, 1 + 2 + 4]
  assert [example[1] for example in parts_of([batch])] == [["ab"], ["ab"]]


def test_what_most_have_cannot_be_exchanged_by_all(capsys):
  pairs = [([image("right", 0 if i < 4 else i)], ["x"]) for i in range(6)]
  before, after = map(parts_of, read(pairs))
  same = sum(one[0] == other[0] for one, other in zip(before, after))
  assert same == 2 and "2 of 6 examples keep media equal to their own" in capsys.readouterr().err


def test_errors_say_what_to_do():
  with pytest.raises(UserError, match="inputs of task shuffled_for_test, split validation, have no media that differ"):
    read([(["a"], ["b"]), (["c"], ["d"])])
  with pytest.raises(UserError, match="have no media that differ: unset it, or choose another"):
    read([([image("right", 0)], ["b"])] * 3)
  for options in ({"pack": True}, {"vocabulary": media_tasks.TEXT}):
    with (registered("shuffled_for_test", questions(3), vocabulary=options.pop("vocabulary", VOCABULARY)) as name,
          pytest.raises(UserError, match="examples with media in their inputs, one a row: use such a task")):
      Evaluator(experiment(name, **options), Partitioner(data=1, num_devices=1), "validation", shuffle_media=True)
  with (registered("shuffled_for_test", questions(3), inputs=False) as name,
        pytest.raises(UserError, match="DatasetConfig.feature_converter = 'prefix_lm'")):
    Evaluator(experiment(name, "stream"), Partitioner(data=1, num_devices=1), "validation", shuffle_media=True)


def mean_score(targets, scores):
  return {"mean_score": float(np.mean(scores))}


def with_medium(pairs, medium):
  return [([medium, *given[1:]], wanted) for given, wanted in pairs]


def test_a_model_that_sees_media_notices():
  """Loss and scores change where media are shuffled, or all alike; those of a model that sees none do not."""
  params = media_tasks.MODEL.init(jax.random.key(0))
  params = jax.tree.map(lambda leaf: leaf * 3, params)  # Far from uniform.
  first = VOCABULARY.layout.ranges["image.0"].start  # To the blind one all codes are the same.
  size = VOCABULARY.vocab_size
  blind = jax.tree.map(lambda leaf: leaf.at[first:].set(leaf[first]) if len(leaf) == size else leaf, params)
  mesh = Partitioner(data=1, num_devices=1)

  def losses(pairs, shuffle, params=params):
    with registered("noticed_for_test", pairs, metric_fns=[mean_score]) as name:
      trial = experiment(name)
      return (Evaluator(trial, mesh, "validation", shuffle)(params),
              TaskMetrics(trial, "validation", shuffle)(params)["noticed_for_test/mean_score"])

  pairs = media_tasks.to_text(8)
  (whole, score), (shuffled, other_score) = losses(pairs, False), losses(pairs, True)
  (zeroed, zeroed_score) = losses(with_medium(pairs, Image(np.zeros((4, 4, 1), np.uint8))), False)
  for metrics, found in ((shuffled, other_score), (zeroed, zeroed_score)):
    assert abs(metrics["loss"] - whole["loss"]) > 1e-3 and abs(found - score) > 1e-3
    assert metrics["tokens"] == whole["tokens"]
  (whole, score), (shuffled, other_score) = losses(pairs, False, blind), losses(pairs, True, blind)
  assert shuffled["loss"] == pytest.approx(whole["loss"], abs=1e-6) and other_score == pytest.approx(score, abs=1e-5)
