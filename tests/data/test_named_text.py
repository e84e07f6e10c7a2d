"""Names in documents: where their tokens lie, and that denoising hides them whole."""

import gin
import numpy as np
import pytest
import seqio

from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.entities import Matcher
from gpt4x.data.named_text import tokens_and_names
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401


def bind(name, **parameters):
  for parameter, value in parameters.items():
    gin.bind_parameter(f"{name}.{parameter}", value)


NAMES = ["New York", "York", "Ada Lovelace", "été"]


@pytest.mark.parametrize("text", ["Ada Lovelace never saw New York, nor York.", "no name", "", "un été à New York"])
def test_places_are_those_of_the_names(text):
  vocabulary = seqio.ByteVocabulary()
  ids, places = tokens_and_names(text, Matcher(NAMES), vocabulary)
  assert ids.tolist() == list(vocabulary.encode(text)) and places.shape == (len(places), 2)
  found = [vocabulary.decode(ids[start:stop].tolist()) for start, stop in places]
  assert found == [text[start:stop] for start, stop in Matcher(NAMES).spans(text)]


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  lines = [f"In the year {i} Ada Lovelace went to New York, and it was été." for i in range(40)]
  (tmp_path / "a.txt").write_text("\n".join(lines[:30]))
  (tmp_path / "b.txt").write_text("\n".join(lines[30:]))
  (tmp_path / "names.tsv").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES)))
  bind("LocalText", files=str(tmp_path / "a.txt"), validation_files=str(tmp_path / "b.txt"))
  return tmp_path


def test_masks_lie_on_names_first(folder):
  bind("LocalGraph", names=str(folder / "names.tsv"))
  data = DatasetConfig("local_text_masked_names", {"targets": 96}, 2, "masked_lm").open()
  batch, whole, partly = next(data.train()), 0, 0
  for targets, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"] > 0):
    text = data.vocabulary.decode(targets[targets > 0].tolist())
    for start, stop in Matcher(NAMES).spans(text):
      first, last = len(text[:start].encode()), len(text[:stop].encode())
      whole += weights[first:last].all()
      partly += weights[first:last].any() and not weights[first:last].all()
  assert whole >= 2 and partly == 0


def test_spans_are_names(folder):
  bind("LocalGraph", names=str(folder / "names.tsv"))
  data = DatasetConfig("local_text_spans_names", {"inputs": 96, "targets": 64}, 2, "prefix_lm").open()
  vocabulary, batch = data.vocabulary, next(data.train())
  for targets, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"]):
    answers = targets[weights > 0].tolist()[:-1]
    marks = [place for place, token in enumerate(answers) if token > 300] + [len(answers)]
    found = [vocabulary.decode(answers[start + 1:stop]) for start, stop in zip(marks, marks[1:])]
    assert found and set(found) <= set(NAMES)


def test_without_names_there_is_nothing_to_hide(folder):
  with pytest.raises(UserError, match="no names to hide: set LocalGraph.names"):
    next(DatasetConfig("local_text_masked_names", {"targets": 96}, 2, "masked_lm").open().train())


def test_other_names_are_other_data(folder):
  from gpt4x.data.named_text import NamedTextSource
  bind("LocalGraph", names=str(folder / "names.tsv"))
  before = NamedTextSource().fingerprint_parts()
  (folder / "names.tsv").write_text("0\tsomebody else\n")
  assert NamedTextSource().fingerprint_parts() != before
  assert np.all(np.array(list(before)) == list(NamedTextSource().fingerprint_parts()))
