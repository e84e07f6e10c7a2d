import io
import json

import pytest

from gpt4x.media import records
from gpt4x.media.records import File


def read(tmp_path, *lines):
  """(records, what is bad) of lines, which are JSON or text."""
  for name in ("a.png", "b.wav"):
    (tmp_path / name).touch()
  text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
  bad: list[str] = []
  found = list(records.read(f"{tmp_path}/r.jsonl", io.BytesIO(text.encode()), bad.append))
  return found, bad


def test_every_form(tmp_path):
  image, sound = File("image", f"{tmp_path}/a.png"), File("audio", f"{tmp_path}/b.wav")
  found, bad = read(
      tmp_path, {"image": "a.png", "text": "a"}, "", {"audio": "b.wav", "question": "q", "answer": "r"},
      {"parts": ["x", {"image": str(tmp_path / "a.png")}, {"audio": "b.wav"}]}, {"text": "t"}, {"image": "a.png"},
      {"image": "a.png", "audio": "b.wav", "text": "both", "id": 7})
  assert not bad
  assert [one.parts for one in found] == [
      (image, "a"), (sound, "q", "r"), ("x", image, sound), ("t",), (image,), (image, sound, "both")]
  assert [one.place.rpartition("/")[2] for one in found] == [f"r.jsonl:{i}" for i in (1, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize("line, message", [
    ("[1]", r'not a JSON object such as \{"image": "a.png", "text": "..."\} \(but of type list\): correct it'),
    ("{", r"not a JSON object such as .* \(Expecting property name .* at column 2\): correct it"),
    ({"caption": "x", "file": "y"}, "it has 'caption', 'file', and neither media nor text: name them as in"),
    ({}, "it has nothing, and neither"),
    ({"image": "none.png", "text": "a"}, "there is no file .*/none.png: correct the path of its image, which"),
    ({"image": 5}, r"\{\"image\": 5\} is no medium: write it as \{\"image\": \"a.png\"\}"),
    ({"image": "a.png", "text": 5}, 'its "text" is of type int: give it as text'),
    ({"image": "a.png", "question": "q"}, 'its "answer" is missing: give it as text'),
    ({"parts": []}, '"parts" is no list of texts and media'), ({"parts": [["a"]]}, r'\["a"\] is no medium'),
    ({"parts": [{"image": "a.png", "audio": "b.wav"}]}, r".* is no medium"), ({"parts": "text"}, '"parts" is no list'),
    ('{"text": "\\ud800"}', "half a surrogate pair, which is no text: correct it"),
])
def test_a_bad_record_is_one_line_with_its_place(tmp_path, line, message):
  found, bad = read(tmp_path, {"text": "good"}, line, {"text": "good"})
  assert len(found) == 2 and len(bad) == 1 and "\n" not in bad[0]
  with pytest.raises(AssertionError, match=f"^{tmp_path}/r.jsonl:2: {message}"):
    raise AssertionError(bad[0])


def test_what_is_not_utf8_is_told(tmp_path):
  bad: list[str] = []
  assert not list(records.read("r.jsonl", io.BytesIO(b'{"text": "\xff"}\n'), bad.append))
  assert bad == ["r.jsonl:1: not UTF-8 at byte 10 of the line: convert the file"]


def made(tmp_path, record, kind, **options):
  (found,), _ = read(tmp_path, record)
  return [(tuple(part if isinstance(part, str) else part.medium for part in one.parts), one.num_inputs)
          for one in records.examples(found, kind, **options)]


CAPTION, QUESTION = {"image": "a.png", "text": "t"}, {"image": "a.png", "question": "q", "answer": "r"}
PARTS = {"parts": ["x", {"image": "a.png"}, "y", {"image": "a.png"}]}


def test_documents_have_their_parts_in_order(tmp_path):
  assert made(tmp_path, CAPTION, "document") == [(("image", "t"), 0)]
  assert made(tmp_path, CAPTION, "document", text_first=True) == [(("t", "image"), 0)]
  assert made(tmp_path, QUESTION, "document", text_first=True) == [(("image", "q", "r"), 0)]
  assert made(tmp_path, PARTS, "document", text_first=True) == [(("x", "image", "y", "image"), 0)]
  assert made(tmp_path, {"text": "t"}, "document", text_first=True) == [(("t",), 0)]


def test_inputs_and_targets(tmp_path):
  assert made(tmp_path, CAPTION, "to_text") == [(("image", "t"), 1)]
  assert made(tmp_path, QUESTION, "to_text") == [(("image", "q", "r"), 2)]
  assert made(tmp_path, CAPTION, "to_media") == [(("t", "image"), 1)]
  assert made(tmp_path, PARTS, "to_media") == [(("x", "image", "y", "image"), 3)]
  assert made(tmp_path, PARTS, "image") == [(("image",), 0)] * 2


@pytest.mark.parametrize("record, kind, message", [
    ({"image": "a.png"}, "to_text", "no text behind a medium"), ({"text": "t"}, "to_text", "no text behind a medium"),
    (PARTS, "to_text", "no text behind a medium"), (QUESTION, "to_media", "no medium with a text"),
    ({"image": "a.png"}, "to_media", "no medium with a text"),
    (CAPTION, "audio", "no audio, which the task is made of")])
def test_what_a_record_lacks_for_a_task_is_said(tmp_path, record, kind, message):
  with pytest.raises(ValueError, match=message):
    made(tmp_path, record, kind)


def test_all_that_is_said_of_a_medium_is_one_group(tmp_path):
  found, _ = read(tmp_path, CAPTION, QUESTION, {"text": "t"}, {"text": "u"})
  assert [records.group(one) for one in found] == ["a.png", "a.png", "t", "u"]
