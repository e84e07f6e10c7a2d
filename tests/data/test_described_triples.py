"""Descriptions of a triple's ends: four texts a row, of which none is cut off, and an entity that is no answer."""

import itertools

import gin
import numpy as np
import pytest

from gpt4x.data.dataset import DatasetConfig
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401


def bind(name, **parameters):
  for parameter, value in parameters.items():
    gin.bind_parameter(f"{name}.{parameter}", value)


TRIPLES = [("cat", "eats", "mouse"), ("mouse", "eats", "grain"), ("dog", "chases", "cat"), ("owl", "eats", "mouse"),
           ("cat", "eats", "fish"), ("hen", "eats", "grain")]
NAMES = {"cat": "an animal that purrs", "mouse": "a small one", "grain": "food"}


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  (tmp_path / "train.tsv").write_text("".join("\t".join(one) + "\n" for one in TRIPLES))
  (tmp_path / "valid.tsv").write_text("owl\teats\then\n")
  (tmp_path / "names.tsv").write_text("".join(f"{name}\t{name.title()}\t{text}\n" for name, text in NAMES.items()))
  bind("LocalGraph", files=str(tmp_path / "train.tsv"), validation_files=str(tmp_path / "valid.tsv"),
       names=str(tmp_path / "names.tsv"))
  return tmp_path


def texts_of(batch, vocabulary):
  """The texts of each row by their number."""
  for ids, numbers in zip(batch["decoder_target_tokens"], batch["decoder_sequences"]):
    yield {int(number): vocabulary.decode(ids[numbers == number].tolist())
           for number in np.unique(numbers[numbers > 0])}


def test_rows_have_the_texts_of_triples():
  data = DatasetConfig("local_descriptions_bytes", {"targets": 160}, 3, "lm").open()
  assert data.sequences == "triples"
  named = lambda one: f"{one.title()}: {NAMES[one]}" if one in NAMES else one
  expected, negatives = {(named(head), relation, named(tail)) for head, relation, tail in TRIPLES}, set()
  seen = set()
  for batch in itertools.islice(data.train(), 12):
    np.testing.assert_array_equal(batch["decoder_segment_ids"], batch["decoder_sequences"])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], batch["decoder_sequences"] > 0)
    for texts in texts_of(batch, data.vocabulary):
      triple, (key, other) = (texts[1], texts[2], texts[3]), max(texts.items())
      seen.add(triple)
      negatives.add((triple, key, other))
      made = (triple[0], triple[1], other) if key == 4 else (other, triple[1], triple[2])
      assert len(texts) == 4 and made not in expected, "what is put in its place makes another triple that is known"
  assert seen == expected
  assert {key for _, key, _ in negatives} == {4, 5} and len(negatives) > len(expected), "others in each epoch"


def test_long_descriptions_leave_room_for_all():
  data = DatasetConfig("local_descriptions_bytes", {"targets": 40}, 3, "lm").open()
  for texts in texts_of(next(data.train()), data.vocabulary):
    assert sorted(texts)[:3] == [1, 2, 3] and len(texts) == 4 and all(map(len, texts.values()))


def test_no_room_is_told():
  with pytest.raises(UserError, match="no room for four texts"):
    next(DatasetConfig("local_descriptions_bytes", {"targets": 7}, 3, "lm").open().train())


def test_too_few_entities_are_told(folder):
  (folder / "train.tsv").write_text("cat\teats\tmouse\n")
  (folder / "valid.tsv").write_text("mouse\teats\tcat\n")
  with pytest.raises(UserError, match="2 entities, of which none can take the place of another"):
    next(DatasetConfig("local_descriptions_bytes", {"targets": 40}, 3, "lm").open().train())
