"""Names in documents: where their tokens lie, and that denoising hides them whole."""

import json

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
  ids, places = tokens_and_names(text, Matcher(NAMES).spans(text), vocabulary)
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


def annotated(folder, offsets="characters", names=("Köln",)):
  """Records of which the field "ents" says where names stand; and where they stand in each text, in bytes."""
  records = []
  for i in range(8):
    text = f"Zoë went from York, number {i}, to Köln, and nobody else did so. Nor did York."
    start = lambda name: len(text[:text.index(name)].encode() if offsets == "bytes" else text[:text.index(name)])
    stop = lambda name: start(name) + len(name.encode() if offsets == "bytes" else name)
    records.append({"text": text, "ents": [[start(name), stop(name)] for name in names]})
  for name, some in (("a.jsonl", records[:6]), ("b.jsonl", records[6:])):
    (folder / name).write_text("\n".join(map(json.dumps, some)))
  bind("LocalText", files=str(folder / "a.jsonl"), validation_files=str(folder / "b.jsonl"), entities="ents",
       offsets=offsets)
  return records


def masked_parts(length=96):
  """Which bytes of the rows of a batch are masked, with the text of each row."""
  data = DatasetConfig("local_text_masked_names", {"targets": length}, 4, "masked_lm").open()
  batch = next(data.train())
  for targets, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"] > 0):
    content = data.vocabulary.decode(targets[targets > 0].tolist()).encode()
    yield content, {place for place, masked in enumerate(weights) if masked}


def places_of(content, name):
  start = content.index(name.encode())
  return set(range(start, start + len(name.encode())))


@pytest.mark.parametrize("offsets", ["characters", "bytes"])
def test_masks_lie_on_what_records_annotate(folder, offsets):
  """Without a list of names: more than a mask of one in seven tokens would have by chance."""
  annotated(folder, offsets)
  for content, masks in masked_parts():
    assert places_of(content, "Köln") <= masks


def test_names_of_a_list_are_hidden_beside_annotated_ones(folder):
  annotated(folder, names=("Zoë went from York",))
  bind("LocalGraph", names=str(folder / "names.tsv"))
  for content, masks in masked_parts():
    whole, last = places_of(content, "Zoë went from York"), content.rindex(b"York")
    assert whole <= masks and masks - whole in (set(), {*range(last, last + 4)}), "nothing else, nor a part of either"


def test_a_held_out_end_has_its_own_annotations(folder):
  """Few documents are cut: the end of each is for validation, and its entities are counted from there."""
  from gpt4x.data.named_text import NamedTextSource
  text = "x" * 190 + " Köln york"
  (folder / "a.jsonl").write_text(json.dumps({"text": text, "ents": [[0, 4], [191, 195]]}))
  bind("LocalText", files=str(folder / "a.jsonl"), validation_files=(), entities="ents")
  parts = {split: next(NamedTextSource().get_dataset(split).as_numpy_iterator()) for split in ("train", "validation")}
  found = {split: [one["text"].decode()[start:stop] for start, stop in json.loads(one["spans"])]
           for split, one in parts.items()}
  assert found == {"train": ["xxxx"], "validation": ["Köln"]}


def test_a_wrong_annotation_is_told_with_its_line_or_left_out(folder, capfd):
  records = annotated(folder)
  records[2]["ents"] = [[0, 500]]
  (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
  with pytest.raises(UserError, match=r"a.jsonl:3: its 'ents' has \[0, 500\], which is no .*: correct it, or set"):
    list(masked_parts())
  bind("LocalText", on_bad_record="skip")
  assert list(masked_parts()) and "skipped 1 bad records beside 7 documents" in capfd.readouterr().err


def test_other_annotations_are_other_data(folder):
  from gpt4x.data.named_text import NamedTextSource
  before = NamedTextSource().fingerprint_parts()
  bind("LocalText", entities="ents")
  assert NamedTextSource().fingerprint_parts() != before
  bind("LocalText", offsets="words")
  with pytest.raises(UserError, match="LocalText.offsets = 'words' must be one of characters, bytes"):
    NamedTextSource().fingerprint_parts()


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
