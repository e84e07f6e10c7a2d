"""The classifier of quality, on two kinds of made-up text, held out; and its file."""

import pickle
import random

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules import quality
from gpt4x.preparation.rules.quality import features, load, Quality, train

COMMON = ["the", "of", "and", "a", "to", "in", "is", "it", "that", "was", "for", "on", "are", "with", "as"]
KINDS = {"good": ["theory", "river", "history", "measured", "engineers", "council", "winter", "evidence"],
         "bad": ["buy", "cheap", "click", "deal", "now", "free", "casino", "bonus"]}


def texts(kind, count, seed=0):
  rng = random.Random(f"{kind} {seed}")
  return [" ".join(rng.choice(KINDS[kind] if rng.random() < 0.2 else COMMON) for _ in range(40)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("model")
  train(texts("good", 100), texts("bad", 100), str(path), buckets=1 << 12)
  return str(path)


def test_two_kinds_are_told_apart_held_out(model):
  rule = pickle.loads(pickle.dumps(Quality(model)))
  good = [rule(Document("a", text)) for text in texts("good", 50, seed=1)]
  bad = [rule(Document("a", text)) for text in texts("bad", 50, seed=1)]
  assert sum(isinstance(one, Document) for one in good) >= 48 and sum(isinstance(one, Dropped) for one in bad) >= 48
  assert all(one.reason == "quality" and one.value < 0.5 for one in bad if isinstance(one, Dropped))
  kept = [one for one in good if isinstance(one, Document)]
  assert all(0.5 <= one.fields["quality"] <= 1 for one in kept)


def test_pairs_of_words_count(tmp_path):
  good, bad = ["red wine white bread"] * 20, ["red bread white wine"] * 20
  trained = train(good, bad, str(tmp_path / "pairs.npz"), buckets=1 << 12)
  assert trained.probability(good[0]) > 0.6 > 0.4 > trained.probability(bad[0])


def test_both_kinds_weigh_the_same(tmp_path):
  trained = train(texts("good", 10), texts("bad", 200), str(tmp_path / "few.npz"), buckets=1 << 12)
  found = [trained.probability(text) > 0.5 for text in texts("good", 20, seed=1)]
  assert sum(found) >= 15


def test_the_same_texts_give_the_same_file(tmp_path):
  paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
  for path in paths:
    train(texts("good", 5), iter(texts("bad", 5)), str(path), buckets=64)
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert load(str(paths[0])).weights.shape == (64,)


def test_a_file_that_is_trained_again_is_read_again(tmp_path):
  path = str(tmp_path / "a.npz")
  train(["good"], ["bad"], path, buckets=64)
  before = load(path).probability("good")
  train(["bad"], ["good"], path, buckets=64)
  assert load(path).probability("good") < 0.5 < before


def test_features_have_length_one_and_know_no_case():
  for text in ("one", "One TWO two", "我是学生", "word " * 1000):
    buckets, values = features(text, 1 << 10)
    assert np.linalg.norm(values) == pytest.approx(1) and len(set(buckets)) == len(buckets) and buckets.max() < 1 << 10
  assert all(map(np.array_equal, features("One, two", 64), features("one , TWO", 64)))
  assert len(features("我是学生", 1 << 20)[0]) == 7  # Four characters and their three pairs.
  assert not len(features(" ", 64)[0])


@pytest.mark.parametrize("text", ["", " ", "\n", "one", "?" * 1_000_000, "\ud800"])
def test_extremes(model, text):
  kept = Quality(model, least=0)(Document("a", text))
  assert 0 <= kept.fields["quality"] <= 1


def test_what_is_no_classifier_is_refused(tmp_path):
  np.savez(tmp_path / "other.npz", weights=np.zeros(4))
  np.savez(tmp_path / "later.npz", kind="gpt4x quality", version=9, weights=np.zeros(4, np.float32), bias=0.0)
  np.savez(tmp_path / "odd.npz", kind="gpt4x quality", version=1, weights=np.zeros(5, np.float32), bias=0.0)
  np.savez(tmp_path / "pickled.npz", kind=np.array(["x", {}], object), version=1)
  np.save(tmp_path / "array", np.zeros(4))
  (tmp_path / "array.npy").rename(tmp_path / "array.npz")
  (tmp_path / "text.npz").write_text("hello")
  (tmp_path / "empty.npz").write_bytes(b"")
  for name in ("other", "odd", "pickled", "array", "text", "empty", "none"):
    with pytest.raises(UserError, match=f"{name}.npz is no classifier of quality"):
      Quality(str(tmp_path / f"{name}.npz"))(Document("a", "text"))
  with pytest.raises(UserError, match="version 9"):
    load(str(tmp_path / "later.npz"))
  with pytest.raises(UserError, match="quality.npz is no classifier"):
    load(str(tmp_path))
  with pytest.raises(UserError, match="no directory and no .npz file"):
    load(str(tmp_path / "nowhere"))


def test_what_cannot_be_trained_is_refused(tmp_path):
  path = str(tmp_path / "a.npz")
  for good, bad, kind in (([], ["x"], "good"), (["x"], [], "bad")):
    with pytest.raises(UserError, match=f"no {kind} ones"):
      train(good, bad, path)
  for wrong in ({"buckets": 100}, {"buckets": 1}, {"epochs": 0}, {"learning_rate": 0}):
    with pytest.raises(UserError, match=next(iter(wrong))):
      train(["x"], ["y"], path, **wrong)
  with pytest.raises(UserError, match="Quality.least"):
    Quality("m", least=2)
  assert not list(tmp_path.iterdir()) and quality._VERSION == 1
