import gzip
import json
import os

import gin
import pytest

from gpt4x.errors import UserError
from gpt4x.media import source
from gpt4x.media.local_media import LocalMedia
from gpt4x.media.source import LocalMediaSource
from tests.media.tiny_files import json_lines, pngs


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture(name="few")
def _few(tmp_path):
  """Ten images with two captions each, in a.jsonl."""
  names = pngs(tmp_path, 10)
  json_lines(tmp_path / "a.jsonl", [{"image": name, "text": f"{name} {i}"} for name in names for i in range(2)])


def texts(split, kind="document", **options):
  found = LocalMediaSource(kind, LocalMedia(**{"files": "*.jsonl", **options})).examples(split)
  return [part for one in found for example in one for part in example.parts if isinstance(part, str)]


def test_all_that_is_said_of_an_image_is_on_one_side(few):
  train, validation = texts("train"), texts("validation")
  assert len(validation) == 2 and len(train) == 18  # 5% of ten images is at least one.
  assert not {text.split()[0] for text in train} & {text.split()[0] for text in validation}


def test_of_many_a_hash_holds_out_about_five_percent_whatever_else_there_is(tmp_path):
  json_lines(tmp_path / "a.jsonl", [{"text": f"{i}"} for i in range(1000)])
  first = set(texts("validation"))
  assert len(first) == pytest.approx(50, abs=25) and len(texts("train")) == 1000 - len(first)
  json_lines(tmp_path / "b.jsonl", [{"text": f"{i}"} for i in range(1000, 1500)])
  assert first < set(texts("validation"))


def test_what_is_held_out_does_not_depend_on_where_the_folder_lies(few, tmp_path):
  before = texts("validation")
  os.mkdir("moved")
  for name in os.listdir("."):
    if name != "moved":
      os.rename(name, f"moved/{name}")
  assert texts("validation", files="moved/*.jsonl") == before == texts("validation", files=f"{tmp_path}/moved/a.jsonl")


def test_no_image_that_one_task_holds_out_trains_a_codec_in_another(few):
  def images(kind, split):
    made = LocalMediaSource(kind, LocalMedia("a.jsonl")).examples(split)
    return {part.path for one in made for example in one for part in example.parts if not isinstance(part, str)}

  for kind in ("document", "to_text", "to_media"):
    assert images(kind, "validation") == images("image", "validation")
    assert images(kind, "validation") and not images(kind, "validation") & images("image", "train")


def test_a_held_out_image_trains_no_codec_wherever_in_a_record_it_stands(tmp_path):
  """Also behind another in a record of training, whose text is about both."""
  names = pngs(tmp_path, 40)
  pair = lambda i: {"parts": [{"image": names[i]}, {"image": names[(i + 1) % 40]}, f"{i}"]}
  json_lines(tmp_path / "a.jsonl", [pair(i) for i in range(40)])
  images = lambda kind, split: {part.path for one in LocalMediaSource(kind, LocalMedia("a.jsonl")).examples(split)
                                for example in one for part in example.parts if not isinstance(part, str)}
  seen = images("to_text", "validation")
  assert len(seen) >= 3 and seen & images("to_text", "train"), "the test sees what it is about"
  assert seen == images("image", "validation") and images("image", "train") == set(names) - seen


def test_validation_files_are_not_trained_on(few, tmp_path):
  json_lines(tmp_path / "v.jsonl", [{"text": "held out"}])
  assert texts("validation", validation_files="v.jsonl") == ["held out"]
  assert len(texts("train", validation_files="v.jsonl")) == 20


def test_json_lines_may_be_packed_and_have_a_byte_order_mark(tmp_path):
  with gzip.open("a.jsonl.gz", "wb") as file:
    file.write(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}\n')
  json_lines(tmp_path / "v.jsonl", [{"text": "v"}])
  assert texts("train", files="a.jsonl.gz", validation_files="v.jsonl") == ["a", "b"]
  with open("a.jsonl.gz", "r+b") as file:
    file.truncate(30)
  with pytest.raises(UserError, match="cannot read a.jsonl.gz .*: mend it, or take it out of LocalMedia.files"):
    texts("train", files="a.jsonl.gz", validation_files="v.jsonl")


def test_gin_names_the_files(few):
  gin.parse_config(["LocalMedia.files = 'a.jsonl'", "LocalMedia.max_records = 4"])
  assert sum(map(len, LocalMediaSource().examples("train"))) == 2


def test_order_of_captions(few):
  for order, expected in (("media_first", {False}), ("text_first", {True}), ("both", {False, True})):
    one, = LocalMediaSource("document", LocalMedia("a.jsonl", order=order)).examples("train")
    assert {isinstance(example.parts[0], str) for example in one} == expected


def chunks(split="train", seed=None, **options):
  local = LocalMedia(**{"files": "*.jsonl", "validation_files": "v.jsonl", **options})
  return [json.loads(one) for one in LocalMediaSource("document", local).chunks(split, seed)]


def test_chunks_are_of_one_file_and_those_before_a_new_line_stay(tmp_path, monkeypatch):
  monkeypatch.setattr(source, "CHUNK", 4)
  records = [{"text": f"{i}"} for i in range(10)]
  json_lines(tmp_path / "a.jsonl", records)
  json_lines(tmp_path / "b.jsonl", records[:3])
  json_lines(tmp_path / "v.jsonl", records[:1])
  before = chunks()
  assert [len(one["examples"]) for one in before] == [4, 4, 2, 3]
  assert sorted(map(str, chunks(seed=1))) == sorted(map(str, before))
  orders = [chunks(seed=seed) for seed in (1, 1, 2, 3)]
  assert orders[0] == orders[1] and orders[0] != orders[2] or orders[0] != orders[3]
  json_lines(tmp_path / "a.jsonl", [*records, {"text": "new"}])
  assert [a == b for a, b in zip(before, chunks())] == [True, True, False, True]


def test_only_training_moves_and_drops(tmp_path):
  json_lines(tmp_path / "a.jsonl", [{"text": "t"}])
  json_lines(tmp_path / "v.jsonl", [{"text": "v"}])
  for split, values in (("train", (True, 2, True, 0.1)), ("validation", (False, 0, False, 0.0))):
    options = chunks(split, shift=2, flip=True)[0]["options"]
    assert tuple(options[name] for name in ("train", "shift", "flip", "drop_condition")) == values


def test_the_fingerprint_follows_json_lines_media_and_settings(few, tmp_path):
  told = lambda **options: LocalMediaSource("document", LocalMedia("a.jsonl", **options)).fingerprint_parts()
  keys = [told(), told(fps=5)]
  os.utime("3.png", ns=(0, 12345))
  keys.append(told())
  json_lines(tmp_path / "a.jsonl", [{"image": "3.png", "text": "one"}])
  keys.append(told())
  assert told() == keys[-1]
  assert all(one != other for i, one in enumerate(keys) for other in keys[:i])
  assert [path for path, *_ in keys[-1]["files"]] == ["a.jsonl", "3.png"]


@pytest.mark.parametrize("options, message", [
    ({"files": ()}, "LocalMedia.files is not set; name JSON-lines, for instance --gin.LocalMedia.files="),
    ({"files": "*.txt"}, r"LocalMedia.files = '\*.txt' matches no file"),
    ({"validation_files": "a.jsonl"}, "LocalMedia.validation_files = 'a.jsonl' leaves no file to train on"),
    ({"order": "random"}, "LocalMedia.order = 'random' is unknown: use one of media_first, text_first, both"),
    ({"on_bad_record": "ignore"}, "LocalMedia.on_bad_record = 'ignore' is unknown: use one of raise, skip"),
    ({"drop_condition": 2}, "LocalMedia.drop_condition = 2 must be from 0 up to 1"),
    ({"fps": 0}, "LocalMedia.fps = 0 must be above 0"),
    ({"size": 28}, r"LocalMedia.size = 28 must be \(height, width\)"),
    ({"channels": 4}, "LocalMedia.channels = 4 must be 1 for grey or 3 for RGB"),
    ({"kind": "image"}, "LocalMedia.size is not set, and local_image_bytes needs it"),
    ({"kind": "video", "size": (2, 2)}, "LocalMedia.frames is not set, and local_video_bytes needs it"),
    ({"kind": "audio"}, "LocalMedia.samples is not set, and local_audio_bytes needs it"),
    ({"max_records": 1}, "leaves nothing for the split (train|validation): set LocalMedia.validation_files"),
])
def test_settings_that_cannot_be_are_one_line(few, options, message):
  with pytest.raises(UserError, match=message) as error:
    source_of = LocalMediaSource(options.pop("kind", "document"), LocalMedia(**{"files": "*.jsonl", **options}))
    for split in ("train", "validation"):
      source_of.get_dataset(split)
  assert "\n" not in str(error.value).partition("\n  In call to")[0]  # Which gin adds.


def test_bad_records_are_skipped_and_counted_on_demand(few, capfd):
  with open("a.jsonl", "a") as file:
    file.write('[1]\n{"image": "gone.png"}\n')
  with pytest.raises(UserError, match=r"^a.jsonl:21: not a JSON object .*, or set LocalMedia.on_bad_record = 'skip'$"):
    texts("train")
  assert len(texts("train", on_bad_record="skip")) == 18
  warning = capfd.readouterr().err
  assert "skipped 2 bad records of 22, as LocalMedia.on_bad_record = 'skip' has it; the first: a.jsonl:21: " in warning
  with open("a.jsonl", "a") as file:
    file.write('{"text": "no medium"}\n')
  assert len(texts("train", "to_text", on_bad_record="skip")) == 18


def test_records_that_lack_what_a_task_needs_have_their_place_told(tmp_path):
  json_lines(tmp_path / "a.jsonl", [{"text": "no medium"}] * 3)
  json_lines(tmp_path / "v.jsonl", [{"text": "no medium"}])
  with pytest.raises(UserError, match="^a.jsonl:1: it has no text behind a medium, .*, or take it out, or set"):
    texts("train", "to_text", validation_files="v.jsonl")


def test_nothing_at_all_is_an_error(tmp_path):
  (tmp_path / "a.jsonl").write_text("\n\n")
  with pytest.raises(UserError, match=r"there are no records in 1 file\(s\), a.jsonl the first: write lines such as"):
    texts("train")
