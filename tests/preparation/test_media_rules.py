"""Folders of images and sounds with captions, and what the rules keep of them."""

import json
import pathlib
import pickle
import wave

import numpy as np
import PIL.Image
import pytest

from gpt4x.errors import UserError
from gpt4x.media.files.content import Unavailable
from gpt4x.preparation import shard_files
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates.pictures import ImageDuplicates
from gpt4x.preparation.media_rules import Caption, image_key, Images, Sounds
from gpt4x.preparation.sources import media_folder
from tests.preparation import preparing

RATE = 8000


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def picture(path, height=100, width=120, **options):
  PIL.Image.fromarray(noise(height, width)).save(path, **options)
  return Document("f:1", "a caption", fields={"image": str(path)})


def sound(path, samples):
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    file.writeframes(np.asarray(samples, "<i2").tobytes())
  return Document("f:1", "a caption", fields={"audio": str(path)})


def tone(seconds=1.0, level=8000):
  return level * np.sin(np.arange(int(seconds * RATE)) * 0.3)


def read(folder, **options):
  said: list[str] = []
  return list(media_folder.read(str(folder), said.append, **options)), said


def test_captions_lie_beside_their_media(tmp_path):
  (tmp_path / "b").mkdir()
  for name in ("z.png", "b/x.JPG", "b/none.png"):
    (tmp_path / name).write_bytes(b"")
  (tmp_path / "a.wav").write_bytes(b"")
  (tmp_path / "z.txt").write_bytes("für\r\n dich \n".encode())
  (tmp_path / "b" / "x.txt").write_text("x")
  (tmp_path / "a.txt").write_text("a")
  (tmp_path / "b" / "alone.txt").write_text("nobody's")
  (tmp_path / "README.md").write_text("not a medium")
  documents, said = read(tmp_path)
  assert [(one.name, one.text, one.fields) for one in documents] == [
      ("a.wav:1", "a", {"audio": "a.wav"}), ("b/x.JPG:1", "x", {"image": "b/x.JPG"}),
      ("z.png:1", "für\n dich", {"image": "z.png"})]
  assert [one.path("image") for one in documents] == [None, str(tmp_path / "b/x.JPG"), str(tmp_path / "z.png")]
  assert [one.split()[0] for one in said] == ["b/none.png", "b/alone.txt"]
  below, _ = read(tmp_path / "b", name="b")
  assert [(one.name, one.path("image")) for one in below] == [("b/x.JPG:1", str(tmp_path / "b/x.JPG"))]


def test_metadata_has_captions_and_fields(tmp_path):
  (tmp_path / "b").mkdir()
  for name in ("a.png", "b/s.wav", "c.png", "d.png"):
    (tmp_path / name).write_bytes(b"")
  (tmp_path / "d.txt").write_text("beside")
  lines = [{"file_name": "a.png", "text": " one ", "license": "x"}, {"audio": "./b/s.wav", "text": "two"},
           {"text": "x"}, {"image": "gone.png", "text": "x"}, {"image": "a.png", "audio": "b/s.wav", "text": "x"},
           {"image": "a.png"}]
  (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{broken")
  documents, said = read(tmp_path)
  assert [(one.name, one.text, one.fields) for one in documents] == [
      ("metadata.jsonl:1", "one", {"license": "x", "image": "a.png"}),
      ("metadata.jsonl:2", "two", {"audio": "b/s.wav"}), ("d.png:1", "beside", {"image": "d.png"})]
  assert [one.path("audio") or one.path("image") for one in documents] == [
      str(tmp_path / name) for name in ("a.png", "b/s.wav", "d.png")]
  assert [one.split()[0].rstrip(":") for one in said] == [f"metadata.jsonl:{line}" for line in range(3, 8)] + ["c.png"]


def captioned(folder):
  """Pictures with captions, one of them damaged, two alike, and some listed."""
  (folder / "listed").mkdir(parents=True)
  for number, name in enumerate(("a", "b", "listed/c", "listed/d")):
    PIL.Image.fromarray(noise(9, 9, number)).resize((300, 200)).save(folder / f"{name}.png")
  (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
  (folder / "broken.png").write_bytes(b"no image" * 500)
  for name in ("a", "b", "broken"):
    (folder / f"{name}.txt").write_text(f"a caption of {name}")
  lines = [{"file_name": f"{name}.png", "text": "a caption in a list"} for name in "cd"]
  (folder / "listed" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return [f"{folder}/*.png", f"{folder}/listed/metadata.jsonl"]


def test_a_copy_of_the_folder_gives_the_same_bytes(tmp_path):
  pytest.importorskip("imagehash")
  found = []
  for copy in (tmp_path / "one", tmp_path / "elsewhere" / "two"):
    output = copy / "output"
    prepared = preparing.run(captioned(copy / "input"), output, Images(), ImageDuplicates(), Images())
    content = {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    report = json.loads(content.pop(pathlib.Path("report.json")))
    assert report.pop("media_folder") == f"{copy}/input/"
    found.append((prepared, content, report))
  assert found[0] == found[1]
  kept = [json.loads(line) for path in sorted(output.glob("part-*"))
          for line in shard_files.unpacked(path).read().splitlines()]
  assert [one["metadata"] for one in kept] == [{"image": f"{name}.png"} for name in ("a", "listed/c", "listed/d")]
  assert {name: (one["reason"], one["match"]) for name, one in prepared.dropped.items()} == {
      "b.png:1": ("image_duplicate", "a.png:1"), "broken.png:1": ("image_unreadable", None)}
  assert prepared.dropped["broken.png:1"]["value"].startswith("broken.png is of no known format")


@pytest.mark.parametrize("rule, size, found", [
    (Images(), (100, 120), None), (Images(min_side=100), (100, 120), None),
    (Images(min_side=101), (100, 120), Dropped("image_side", 100)),
    (Images(), (120, 20), Dropped("image_side", 20)),
    (Images(), (64, 192), None), (Images(), (64, 200), Dropped("image_aspect", 3.125)),
    (Images(max_pixels=11_999), (100, 120), Dropped("image_pixels", 12_000))])
def test_images_by_their_size(tmp_path, rule, size, found):
  document = picture(tmp_path / "a.png", *size)
  assert rule(document) == (found or document)


def test_images_that_cannot_be_decoded_are_dropped(tmp_path):
  document = picture(tmp_path / "a.png")
  whole = (tmp_path / "a.png").read_bytes()
  for content in (whole[:-2000], b"", b"no image" * 500, whole[:200] + bytes(5000)):
    (tmp_path / "a.png").write_bytes(content)
    found = Images(min_bytes=0)(document)
    assert isinstance(found, Dropped) and found.reason == "image_unreadable" and "a.png" in str(found.value)
  PIL.Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
  assert Images()(document).reason == "image_bytes"
  (tmp_path / "a.png").unlink()
  with pytest.raises(Unavailable):  # Nothing is known of it, so that nothing is dropped.
    Images()(document)


@pytest.mark.parametrize("rule, samples, found", [
    (Sounds(), tone(), None), (Sounds(), tone(0.25), Dropped("sound_short", 0.25)), (Sounds(), tone(0.5), None),
    (Sounds(max_seconds=0.9), tone(), Dropped("sound_long", 1.0)),
    (Sounds(), tone(level=0), Dropped("sound_silent", None)),
    (Sounds(), np.full(RATE, 16), Dropped("sound_silent", -66.2)),
    (Sounds(silence_db=-70), np.full(RATE, 16), None),
    (Sounds(), np.clip(tone(level=60_000), -32768, 32767), "sound_clipped"),
    (Sounds(clipping=1), np.clip(tone(level=60_000), -32768, 32767), None)])
def test_sounds_by_length_and_level(tmp_path, rule, samples, found):
  document = sound(tmp_path / "a.wav", samples)
  result = rule(document)
  assert (result.reason if isinstance(found, str) else result) == (found or document)


def test_sounds_that_cannot_be_decoded_are_dropped(tmp_path):
  document = sound(tmp_path / "a.wav", tone())
  whole = (tmp_path / "a.wav").read_bytes()
  for content in (b"", whole[:50], whole[:-100], b"no sound" * 500):
    (tmp_path / "a.wav").write_bytes(content)
    assert Sounds()(document).reason == "sound_unreadable"


def test_a_rule_leaves_the_other_medium_and_refuses_documents_with_none():
  assert Images()(document := Document("f:1", fields={"audio": "x.wav"})) is document
  assert Sounds()(document := Document("f:1", fields={"image": "x.png"})) is document
  for rule in (Images(), Sounds()):
    with pytest.raises(UserError, match="f:1 has neither"):
      rule(Document("f:1", "a text"))


def test_captions_by_their_length():
  for text, reason in (("", "caption_short"), ("    \n ", "caption_short"), ("abcd ", "caption_short"), ("abcde", None),
                       ("x" * 2000 + " ", None), ("x" * 2001, "caption_long")):
    found = Caption()(document := Document("f:1", text))
    assert found is document if reason is None else found.reason == reason


def test_parameters_are_checked_and_rules_can_be_sent():
  for rule, wrong in ((Images, dict(min_side=-1)), (Images, dict(max_aspect=0.5)), (Sounds, dict(max_seconds=0.1)),
                      (Sounds, dict(silence_db=3)), (Sounds, dict(clipping=2)), (Caption, dict(max_chars=1))):
    with pytest.raises(UserError, match=f"{rule.__name__}.{next(iter(wrong))}"):
      rule(**wrong)
  for one in (Images(), Sounds(), Caption()):
    assert pickle.loads(pickle.dumps(one)) == one


def test_like_images_have_like_keys(tmp_path):
  imagehash = pytest.importorskip("imagehash")
  smooth = PIL.Image.fromarray(noise(9, 9)).resize((300, 200), PIL.Image.Resampling.BICUBIC)
  smooth.save(tmp_path / "a.png")
  smooth.save(tmp_path / "b.jpg", quality=40)
  smooth.resize((150, 100)).save(tmp_path / "c.webp")
  PIL.Image.fromarray(noise(9, 9, 1)).resize((300, 200)).save(tmp_path / "other.png")
  smooth.convert("L").save(tmp_path / "grey.png")
  turned = PIL.Image.Exif()
  turned[0x0112] = 6  # To be shown a quarter turned to the right.
  smooth.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=turned)
  key = image_key(str(tmp_path / "a.png"))
  assert 0 <= key < 2**64 and f"{key:016x}" == str(imagehash.phash(smooth))
  for name in ("b.jpg", "c.webp", "grey.png", "turned.jpg"):
    assert (key ^ image_key(str(tmp_path / name))).bit_count() <= 6, name
  assert (key ^ image_key(str(tmp_path / "other.png"))).bit_count() > 16
  with pytest.raises(UserError, match="other.txt"):
    (tmp_path / "other.txt").write_text("no image")
    image_key(str(tmp_path / "other.txt"))
