"""Records with labels: what they are known by, how corrections meet them, and that what is written is read again."""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media import labelled_records, record_ids, records
from gpt4x.media.files import images
from gpt4x.media.medium import Image
from gpt4x.media.records import File
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, shade in (("a", 1), ("b", 2), ("same", 1)):
    images.write(Image(np.full((2, 3, 1), shade, np.uint8)), f"{name}.png")


def read(*lines, label_field="label", path="r.jsonl"):
  text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
  if os.path.dirname(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "w") as file:
    file.write(text)
  return labelled_records.read(path, label_field, "--input")


@pytest.mark.parametrize("record, parts", [
    ({"text": "t", "label": "x"}, ("t",)), ({"prompt": "p", "label": "x"}, ("p",)),
    ({"text": "t", "prompt": "p", "label": "x"}, ("t",)),
    ({"question": "q", "answer": "a", "label": "x"}, ("q\na",)), ({"text": "t", "question": "q", "id": 3}, ("t\nq",)),
    ({"image": "a.png"}, (File("image", "a.png"),)), ({"image": "a.png", "text": "t"}, (File("image", "a.png"), "t")),
    ({"parts": ["u", {"image": "a.png"}]}, ("u", File("image", "a.png")))])
def test_what_is_asked(record, parts):
  (one,) = read(record)
  assert one.parts == parts and one.label == record.get("label")


def test_the_label_may_be_any_field_and_is_then_no_content():
  one, two = read({"image": "a.png", "text": " boot "}, {"image": "b.png", "text": ""}, label_field="text")
  assert one.parts == (File("image", "a.png"),) and (one.label, two.label) == ("boot", None)
  found = read(*({"text": "t", "n": value} for value in (1, True, None, " ", "x")), label_field="n")
  assert [one.label for one in found] == ["1", "true", None, None, "x"]


def test_a_record_is_known_by_its_content():
  """By no name of a file, and by no field beside."""
  same = read({"image": "a.png", "text": "t", "label": "x"}, {"image": "same.png", "text": "t", "id": 5},
              {"parts": [{"image": "a.png"}, "t"]})
  assert len({one.identity for one in same}) == 1
  other = read({"image": "b.png", "text": "t"}, {"image": "a.png", "text": "u"}, {"image": "a.png"}, {"text": "t"},
               {"parts": ["t", {"image": "a.png"}]}, {"parts": ["ab", "c"]}, {"parts": ["a", "bc"]})
  assert len({one.identity for one in [*same, *other]}) == 8


@pytest.mark.parametrize("line, message", [
    ("[1]", r'r.jsonl:2: not a JSON object such as \{"text": "...", "label": "..."\} \(but of type list\): correct it'),
    ("{", r"r.jsonl:2: not a JSON object such as .*column 2\): correct it"),
    ({"label": "x"}, "r.jsonl:2: beside a label it has nothing, and neither media nor a text that says something"),
    ({"text": "", "id": 1}, "r.jsonl:2: beside a label it has 'text', 'id', and neither"),
    ({"text": "t", "label": 0.5}, 'r.jsonl:2: its "label" is of type float: give a label as text'),
    ({"text": 7}, 'r.jsonl:2: its "text" is of type int: give it as text'),
    ({"image": "none.png"}, "r.jsonl:2: there is no file none.png: correct the path"),
    ('{"text": "t", "label": "\\ud800"}', "r.jsonl:2: half a surrogate pair"),
])
def test_a_bad_record_is_one_line_with_its_place(line, message):
  with pytest.raises(UserError, match=message) as raised:
    read({"text": "good"}, line)
  assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read():
  with pytest.raises(UserError, match="no file none.jsonl: correct --input"):
    labelled_records.read("none.jsonl", "label", "--input")
  with pytest.raises(UserError, match=r"cannot read \. \(Is a directory\): correct --corrections"):
    labelled_records.read(".", "label", "--corrections")
  assert not read("")
  with gzip.open("packed.jsonl.gz", "wt") as file:
    file.write('{"text": "t", "label": "x"}\n')
  assert labelled_records.read("packed.jsonl.gz", "label", "--input")[0].label == "x"


# Corrections.


def corrected(given, *lines, path="c.jsonl"):
  found = labelled_records.corrected(given, read(*lines, path=path))
  return [(one.label, one.checked) for one in found]


def test_corrections_meet_their_records():
  """Whatever line and folder they are in, and equal records together."""
  given = read({"image": "a.png", "label": "x"}, {"text": "t"}, {"image": "same.png", "label": "x"}, {"text": "u"})
  assert corrected(given, {"text": "u", "label": "v", "suggestions": {}}, {"image": "../a.png", "label": "y"},
                   path="sub/c.jsonl") == [("y", True), (None, False), ("y", True), ("v", True)]


def test_a_label_that_stays_counts_as_checked_if_a_person_says_so():
  given = read({"text": "t", "label": "x"}, {"text": "u", "label": "x"}, {"text": "v"})
  lines = [{"text": "t", "label": "x", "checked": True}, {"text": "u", "label": "x", "checked": False},
           {"text": "v", "label": None}]
  assert corrected(given, *lines) == [("x", True), ("x", False), (None, False)]


@pytest.mark.parametrize("lines, message", [
    ([{"text": "T", "label": "x"}], "c.jsonl:1: no record of --input has this content: change labels alone"),
    ([{"text": "t", "label": "x"}, {"text": "t", "label": "y"}],
     "c.jsonl:2: the label 'y', and 'x' for the same content in line 1: keep one"),
    ([{"text": "t", "label": "x", "source": "model"}],
     'c.jsonl:1: the label is a model\'s: set its "source" to "given" if'),
])
def test_a_wrong_correction_is_one_line(lines, message):
  with pytest.raises(UserError, match=message):
    corrected(read({"text": "t"}), *lines)


# What is written.


@pytest.mark.parametrize("record, label_field", [
    ({"text": "t", "id": 7}, "label"), ({"prompt": "p"}, "completion"), ({"question": "q", "answer": "a"}, "label"),
    ({"image": "a.png"}, "text"), ({"image": "a.png", "text": "t"}, "label"), ({"parts": ["a", "b"]}, "label"),
    ({"parts": ["a", {"image": "a.png"}]}, "label"), ({"image": "a.png", "question": "q"}, "answer")])
def test_what_is_written_is_read_again_in_another_folder(record, label_field):
  """With the label of a person, or a model's that then counts for none; as often as one likes."""
  (one,) = read(record, label_field=label_field)
  os.mkdir("out")
  for source in ("given", "model", "given"):
    line = labelled_records.training_line(one, "out", label_field, "x", confidence=0.5, source=source)
    assert set(record) - {"image", "parts"} <= set(line) and line[label_field] == "x"
    (again,) = read(line, label_field=label_field, path="out/labelled.jsonl")
    assert again.identity == one.identity and again.fields.keys() == one.fields.keys()
    assert (again.label, again.predicted) == (("x", None) if source == "given" else (None, "x"))
    first = {label_field: "x", "suggestions": {"y": 0.5}}
    (reviewed,) = read(labelled_records.line(one, "out", first), label_field=label_field, path="out/review.jsonl")
    assert reviewed.identity == one.identity and reviewed.fields.keys() == one.fields.keys()
    one = labelled_records.read("out/labelled.jsonl", label_field, "")[0]


def test_fine_tuning_reads_prompts_and_completions_or_parts():
  """Those of text have a prompt; media_to_text finds the label behind the media."""
  text, picture = read({"question": "q", "answer": "a"}, {"image": "a.png", "text": "t", "label": "old"})
  line = labelled_records.training_line(text, ".", "label", "x")
  assert (line["prompt"], line["completion"]) == ("q\na", "x")
  line = labelled_records.training_line(picture, "sub", "label", "x")
  assert line == {"image": "../a.png", "text": "t", "label": "x", "parts": [{"image": "../a.png"}, "t", "x"],
                  "completion": "x"}
  os.mkdir("sub")
  with open("sub/l.jsonl", "w+b") as file:
    file.write(json.dumps(line).encode())
    file.seek(0)
    (record,) = records.read("sub/l.jsonl", file, print)
  (example,) = records.examples(record, "to_text")
  assert example.parts[example.num_inputs:] == ("x",) and example.parts[1] == "t"


# Ids.

OPTIONS = {"seconds": None, "fps": None, "stream": 0}


def encode(vocabulary, *lines):
  return record_ids.encode([(one.place, one.parts) for one in read(*lines)], vocabulary, OPTIONS)


def test_ids_are_those_of_a_run_s_data():
  import seqio
  vocabulary = MediaVocabulary(MediaTokens(image="grey")).held()
  found = encode(vocabulary, {"image": "a.png", "text": "tä"}, {"parts": ["u", {"image": "b.png"}]}, {"text": "t"})
  picture = lambda name: vocabulary.layout.flatten(vocabulary.encode_media([images.read(name)])[0]).tolist()
  text = seqio.ByteVocabulary().encode
  assert [ids.tolist() for ids in found] == [picture("a.png") + text("tä"), text("u") + picture("b.png"), text("t")]
  assert encode(seqio.ByteVocabulary(), {"text": "tä"})[0].tolist() == text("tä")


def test_media_that_cannot_be_read_are_told_with_their_line():
  import seqio
  vocabulary = MediaVocabulary(MediaTokens(image="grey")).held()
  with pytest.raises(UserError, match="r.jsonl:2: the model knows no image, only text: take the image out, or choose"):
    encode(seqio.ByteVocabulary(), {"text": "t"}, {"image": "a.png"})
  pathlib.Path("bad.png").write_bytes(b"\x89PNG")
  with pytest.raises(UserError, match="r.jsonl:1: .*bad.png"):
    encode(vocabulary, {"image": "bad.png"})
  images.write(Image(np.zeros((70, 2, 1), np.uint8)), "tall.png")
  with pytest.raises(UserError, match="r.jsonl:1: the image has 70 x 2 cells"):
    encode(vocabulary, {"image": "tall.png"})
