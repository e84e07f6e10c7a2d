"""The tasks of media on this machine, from files to ids."""

import dataclasses
import pathlib

import gin
import numpy as np
import PIL.Image
import pytest
import seqio

from gpt4x import configuration
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.fingerprint import task_key
from gpt4x.data.named_files import stat_of
from gpt4x.errors import UserError
from gpt4x.media import exact, reading
from gpt4x.media.files import videos
from gpt4x.media.layout import Layout, Span, Tokens
from gpt4x.media.local_media import LocalMedia
from gpt4x.media.medium import Video
from gpt4x.media.preprocessors import inputs_and_targets, media_codes
from gpt4x.media.source import LocalMediaSource
from gpt4x.media.vocabulary import MediaVocabulary
import gpt4x.tasks  # noqa: F401  Registers them.
from tests.media.tiny_files import grey_frames, json_lines, mp4, pngs, tone, wav


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  monkeypatch.chdir(tmp_path)
  gin.parse_config(["LocalMedia.files = 'a.jsonl'", "LocalMedia.validation_files = 'v.jsonl'",
                    "MediaTokens.image = 'grey'", "MediaTokens.audio = 'pcm:8000'", "MediaTokens.sizes = 8"])


def write(records, validation=({"text": "held out"},)):
  json_lines(pathlib.Path("a.jsonl"), records)
  json_lines(pathlib.Path("v.jsonl"), validation)


def read(name, split="train", shuffle=False, seed=0, **options):
  task = seqio.get_mixture_or_task(name)
  found = task.get_dataset(sequence_length=None, split=split, shuffle=shuffle, seed=seed, **options)
  return [{key: value.tolist() for key, value in one.items() if key in task.output_features}
          for one in found.as_numpy_iterator()]


def parts(ids):
  """Texts and codes of ids, which end as a document does."""
  return [part.codes.tolist() if isinstance(part, Span) else part for part in _parts(ids)]


def _parts(ids):
  vocabulary = MediaVocabulary()
  for part in vocabulary.layout.parse(ids):
    yield part if isinstance(part, Span) else vocabulary.text.decode(part.tolist())


def pixels(k, size=(4, 6)):
  return np.full((*size, 1), k).tolist()


def test_documents(tmp_path):
  pngs(tmp_path, 3)
  wav(tmp_path / "a.wav", tone(440, count=20))
  write([{"image": "1.png", "text": "one"}, {"parts": ["x", {"image": "2.png"}, "y", {"audio": "a.wav"}]},
         {"text": "t"}])
  raised = tone(440, count=20).astype(int) + 32768
  found = [one["targets"] for one in read("local_media")]
  assert [parts(ids) for ids in found] == [
      [pixels(1), "one"], ["x", pixels(2), "y", np.stack([raised >> 8, raised & 255], -1).tolist(), ""], ["t"]]
  assert [ids.count(1) for ids in found] == [1] * 3 and {ids[-1] for ids in found} == {1}
  assert [parts(one["targets"]) for one in read("local_media", "validation")] == [["held out"]]


def test_inputs_and_targets(tmp_path):
  pngs(tmp_path, 3)
  write([{"image": "1.png", "text": "one"}, {"image": "2.png", "question": "which?", "answer": "two"}])
  found = read("local_media_to_text")
  assert [parts(one["inputs"]) for one in found] == [[pixels(1)], [pixels(2), "which?"]]
  assert [parts(one["targets"]) for one in found] == [["one"], ["two"]]
  assert all(one["targets"][-1] == 1 and 1 not in one["inputs"] for one in found)
  gin.bind_parameter("LocalMedia.drop_condition", 0.0)
  write([{"image": "1.png", "text": "one"}])
  found, = read("local_text_to_media")
  assert parts(found["inputs"]) == ["one"] and parts(found["targets"]) == [pixels(1), ""]


def test_conditions_are_dropped_by_the_seed_and_in_training_alone(tmp_path):
  names = pngs(tmp_path, 4, (1, 1))
  records = [{"image": names[i % 4], "text": f"{i}"} for i in range(150)]
  write(records, records[:30])
  gin.bind_parameter("LocalMedia.drop_condition", 0.3)
  dropped = lambda **options: [not one["inputs"] for one in read("local_text_to_media", **options)]
  first = dropped(seed=1)
  assert first == dropped(seed=1) != dropped(seed=2)
  assert np.mean(first) == pytest.approx(0.3, abs=0.12)
  assert not any(dropped(split="validation"))
  assert all(len(one["targets"]) == 7 for one in read("local_text_to_media"))  # With or without, the medium is there.


def test_a_batch_of_dropped_conditions(tmp_path):
  pngs(tmp_path, 1, (1, 1))
  write([{"image": "0.png", "text": "zero"}] * 4, [{"image": "0.png", "text": "zero"}])
  gin.bind_parameter("LocalMedia.drop_condition", 1.0)
  dataset = Dataset(DatasetConfig("local_text_to_media", {"inputs": 4, "targets": 8}, 2, "prefix_lm"))
  batch = next(dataset.train())
  assert batch["decoder_loss_weights"].sum(1).tolist() == [7, 7]
  assert batch["decoder_target_tokens"][:, :7].tolist() == [read("local_text_to_media")[0]["targets"]] * 2
  batch = next(iter(dataset.evaluation("validation")))
  assert batch["decoder_target_tokens"][0, :4].tolist() == MediaVocabulary().text.encode("zero")


def test_both_ways(tmp_path):
  """Rows of two examples: every record in each direction, as often as chance has it."""
  pngs(tmp_path, 2, (1, 1))
  write([{"image": f"{i}.png", "text": "ab"} for i in range(2)], [{"image": "0.png", "text": "ab"}])
  gin.bind_parameter("LocalMedia.drop_condition", 0.0)
  dataset = Dataset(DatasetConfig("local_media_both_ways", {"inputs": 9, "targets": 9}, 8, "prefix_lm", pack=True))
  batch, found = next(dataset.train()), []
  assert batch["decoder_segment_ids"].max() == 2
  for row, segment_ids in enumerate(batch["decoder_segment_ids"]):
    for number in range(1, segment_ids.max() + 1):
      inside = segment_ids == number
      ids, weights = (batch[name][row][inside] for name in ("decoder_target_tokens", "decoder_loss_weights"))
      inputs, targets = ids[weights == 0].tolist(), ids[(weights > 0) & (ids != 1)].tolist()
      found.append(str((parts(inputs), parts(targets))))
  ways = [(([pixels(i, (1, 1))], ["ab"]), (["ab"], [pixels(i, (1, 1))])) for i in range(2)]
  assert set(found) == {str(way) for both in ways for way in both}


def test_the_first_example_of_a_small_set_waits_for_few_passes(tmp_path, monkeypatch):
  pngs(tmp_path, 2)
  write([{"image": f"{k}.png", "text": "t"} for k in range(2)])
  passes, codes = [], reading.codes
  monkeypatch.setattr(reading, "codes", lambda *args: passes.append(1) or codes(*args))
  dataset = seqio.get_mixture_or_task("local_media").get_dataset(None, shuffle=True, seed=0, num_epochs=None)
  next(dataset.as_numpy_iterator())
  assert len(passes) < 200, "a pass an example of the buffer would be thousands"


def test_codes_are_made_once_and_anew_for_another_codec(tmp_path, monkeypatch):
  pngs(tmp_path, 3)
  write([{"image": f"{k}.png", "text": "t"} for k in range(3)])
  encoded = []
  encode = exact.Pixels.encode
  monkeypatch.setattr(exact.Pixels, "encode", lambda self, one: encoded.append(1) or encode(self, one))
  task = seqio.get_mixture_or_task("local_media")
  keys = [task_key(task, "train")]
  first = read("local_media")
  assert read("local_media") == first and read("local_media_to_text") and len(encoded) == 3
  for name, value, count in (("MediaTokens.image", "rgb", 6), ("MediaTokens.image_size", 2, 9)):
    gin.bind_parameter(name, value)
    keys.append(task_key(task, "train"))
    assert read("local_media") != first and len(encoded) == count
  gin.bind_parameter("MediaTokens.sizes", 9)  # Other ids, but no other codes.
  assert read("local_media") and len(encoded) == 9
  keys.append(task_key(task, "train"))
  assert len(set(keys)) == 4


def test_a_stream_of_media_is_prepared_and_read(tmp_path):
  pngs(tmp_path, 3)
  write([{"image": f"{k}.png", "text": "t"} for k in range(3)])
  dataset = Dataset(DatasetConfig("local_media", {"targets": 16}, 2))
  assert [parts(ids) for ids in dataset.documents("train")] == [[pixels(k), "t"] for k in range(3)]
  assert next(dataset.train())["decoder_target_tokens"].shape == (2, 16)


def test_an_image_larger_than_the_sizes_is_told(tmp_path):
  pngs(tmp_path, 1, (4, 9))
  write([{"image": "0.png", "text": "t"}])
  message = "a.jsonl:1: 0.png: the image has 4 x 9 cells, and MediaTokens.sizes = 8 allows"
  with pytest.raises(UserError, match=message) as error:
    list(Dataset(DatasetConfig("local_media", {"targets": 16}, 2)).documents("train"))
  assert "\n" not in str(error.value)
  gin.bind_parameter("MediaTokens.max_side", 8)
  assert [np.shape(parts(ids)[0]) for ids in Dataset(
      DatasetConfig("local_media", {"targets": 16}, 2)).documents("train")] == [(4, 8, 1)]


def test_a_wrong_sample_rate_is_told_or_mended(tmp_path):
  wav(tmp_path / "a.wav", tone(440, 16000, 400), 16000)
  write([{"audio": "a.wav", "text": "t"}])
  config = DatasetConfig("local_media", {"targets": 16}, 2)
  with pytest.raises(UserError, match="a.jsonl:1: a.wav: a sound has 16000 samples a second, and the codec takes 8000:"
                                      " .*MediaTokens.resample, or set LocalMedia.on_bad_record = 'skip'$"):
    list(Dataset(config).documents("train"))
  gin.bind_parameter("MediaTokens.resample", True)
  found, = Dataset(config).documents("train")
  assert np.shape(parts(found)[0]) == (200, 2)


def test_a_medium_without_codec_is_told(tmp_path):
  mp4(tmp_path / "a.mp4", [grey_frames(3)])
  write([{"video": "a.mp4", "text": "t"}])
  with pytest.raises(UserError, match="a.mp4 is video, and the vocabulary has no video tokens: set MediaTokens.video"):
    list(Dataset(DatasetConfig("local_media", {"targets": 16}, 2)).documents("train"))


@pytest.mark.parametrize("content, message", [
    (b"", "a.jsonl:2: 1.png is empty .0 bytes.: copy it again, or take it out, or set LocalMedia.on_bad"),
    (b"\x89PNG\r\n\x1a\n damaged", "a.jsonl:2: 1.png cannot be read as an image"),
    (b"RIFF\0\0\0\0WAVEfmt ", "a.jsonl:2: 1.png is a sound .WAV., whatever its name says")])
def test_bad_media_are_told_by_record_or_skipped(tmp_path, capfd, content, message):
  pngs(tmp_path, 3)
  (tmp_path / "1.png").write_bytes(content)
  write([{"image": f"{k}.png", "text": "t"} for k in range(3)])
  config = DatasetConfig("local_media", {"targets": 16}, 2)
  with pytest.raises(UserError, match=message) as error:
    list(Dataset(config).documents("train"))
  assert "\n" not in str(error.value)
  gin.bind_parameter("LocalMedia.on_bad_record", "skip")
  capfd.readouterr()
  assert [parts(ids)[0] for ids in Dataset(config).documents("train")] == [pixels(0), pixels(2)]
  assert "skipped 1 bad media of 3" in capfd.readouterr().err


# Videos, with a codec that stands in for a learned one.


class Frames:
  """A frame's mean grey, halved, is its one code."""

  medium, num_codes, shared_range, exact, units_per_cell, fingerprint = "video", (128,), False, False, 1, "frames"

  def encode_all(self, media):
    return [(one.frames.mean((1, 2, 3)).round() // 2).astype(np.int32).reshape(-1, 1, 1, 1) for one in media]


class Vocabulary(seqio.ByteVocabulary):
  """Text, and videos with their sound."""

  def __init__(self, audio=True):
    super().__init__()
    self.codecs = {"video": Frames(), **({"audio": exact.Pcm(8000)} if audio else {})}
    self.settings = {"sizes": 8, "image_size": None, "max_side": None, "resample": False}
    self.layout = Layout(self.vocab_size, 1, audio=Tokens((256, 256)) if audio else None, video=Tokens((128,)))

  def encode_parts(self, some):
    return np.concatenate([np.zeros(0, int), *(self.encode(one) if isinstance(one, str) else self.layout.flatten(one)
                                               for one in some)])


@pytest.mark.parametrize("audio", [True, False])
def test_videos_and_their_sound(tmp_path, audio):
  mp4(tmp_path / "a.mp4", [grey_frames(10)], sound=tone(440, count=3200))
  mp4(tmp_path / "b.mp4", [grey_frames(5)])
  write([{"video": "a.mp4", "question": "q", "answer": "r"}, {"video": "b.mp4", "text": "s"}])
  vocabulary = Vocabulary(audio)
  features = {"targets": seqio.Feature(vocabulary)}
  local = LocalMedia("a.jsonl", "v.jsonl", fps=12.5)
  dataset = LocalMediaSource("to_text", local).get_dataset("train", shuffle=False)
  found = list(inputs_and_targets(media_codes(dataset, features), features).as_numpy_iterator())
  spans = [vocabulary.layout.parse(one["inputs"]) for one in found]
  assert [len(some) for some in spans] == [2, 1] and spans[0][1].tolist() == vocabulary.encode("q")
  assert [one["targets"].tolist() for one in found] == [vocabulary.encode("r"), vocabulary.encode("s")]
  expected = grey_frames(10)[::2, 0, 0, 0] // 2
  assert spans[0][0].codes.shape == (5, 1, 1, 1) and spans[1][0].codes.shape == (3, 1, 1, 1)
  assert np.abs(spans[0][0].codes.ravel() - expected).max() <= 2
  assert spans[1][0].sound is None and (spans[0][0].sound is not None) == audio
  if audio:
    sound = np.concatenate(spans[0][0].sound)
    samples = videos.read_sound("a.mp4").samples.astype(int) + 32768
    np.testing.assert_array_equal(sound[:, 0] * 256 + sound[:, 1], samples)
    assert max(map(len, spans[0][0].sound)) - min(map(len, spans[0][0].sound)) <= 1


def test_the_sound_of_a_video_has_the_codec_s_rate_too(tmp_path):
  mp4(tmp_path / "a.mp4", [grey_frames(3)], sound=tone(440, count=1600))
  vocabulary, file = Vocabulary(), ("video", "a.mp4")
  vocabulary.codecs["audio"] = exact.Pcm(16000)
  read = lambda: reading.codes([("video", stat_of("a.mp4"))], dataclasses.asdict(LocalMedia()), vocabulary)[file]
  assert str(read()).startswith("a.mp4: a sound has 8000 samples a second, and the codec takes 16000: convert it, or ")
  vocabulary.settings["resample"] = True
  frames, sound = read()
  assert len(frames) == 3 and len(sound) == 2 * len(videos.read_sound("a.mp4").samples)


# Bytes, for codecs.


def bytes_of(name, shape, split="train", seed=0, **options):
  for key, value in options.items():
    gin.bind_parameter(f"LocalMedia.{key}", value)
  return [np.reshape(one["targets"], shape) - 3 for one in read(name, split, seed=seed)]


def test_image_bytes(tmp_path):
  image = np.arange(48, dtype=np.uint8).reshape(6, 8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  write([{"image": "a.png", "text": "t"}], [{"image": "a.png"}])
  whole, = bytes_of("local_image_bytes", (6, 8, 1), size=(6, 8), channels=1)
  np.testing.assert_array_equal(whole[..., 0], image)  # 0 to 255, and neither scaled nor moved.
  colour, = bytes_of("local_image_bytes", (6, 8, 3), channels=3)
  np.testing.assert_array_equal(colour, np.repeat(image[..., None], 3, -1))


def test_images_are_moved_in_training_by_the_seed(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  write([{"image": "a.png"}] * 40, [{"image": "a.png"}])
  some = lambda **options: [one[..., 0] for one in bytes_of(
      "local_image_bytes", (6, 6, 1), size=(6, 6), channels=1, **options)]
  found = some(shift=1)
  moved = {one.tobytes() for dy in (-1, 0, 1) for dx in (-1, 0, 1)
           for one in [np.pad(image, 1, "edge")[1 + dy:7 + dy, 1 + dx:7 + dx].astype(int)]}
  assert {one.tobytes() for one in found} <= moved and len({one.tobytes() for one in found}) > 4
  assert all((a == b).all() for a, b in zip(found, some(seed=0)))
  assert any((a != b).any() for a, b in zip(found, some(seed=1)))
  assert (some(split="validation")[0] == image).all()
  found = some(shift=0, flip=True)
  assert {one.tobytes() for one in found} == {one.astype(int).tobytes() for one in (image, image[:, ::-1])}
  assert (some(split="validation")[0] == image).all()


def test_images_are_cut_anywhere_in_training_else_in_the_middle(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  write([{"image": "a.png"}] * 30, [{"image": "a.png"}])
  some = lambda **options: [one[..., 0] for one in bytes_of(
      "local_image_bytes", (4, 4, 1), size=(4, 4), channels=1, crop=2, **options)]
  cut = {image[y:y + 4, x:x + 4].astype(int).tobytes() for y in range(3) for x in range(3)}
  found = {one.tobytes() for one in some()}
  assert found <= cut and len(found) > 4
  assert (some(split="validation")[0] == image[1:5, 1:5]).all()


def test_audio_bytes(tmp_path):
  long, short = np.arange(-50, 60, dtype=np.int16), np.array([-32768, 32767, 5], np.int16)
  wav(tmp_path / "long.wav", long)
  wav(tmp_path / "short.wav", short)
  write([{"audio": "long.wav"}, {"audio": "short.wav"}], [{"audio": "long.wav"}, {"audio": "short.wav"}])
  some = lambda **options: [one[:, 0] * 256 + one[:, 1] - 32768 for one in bytes_of(
      "local_audio_bytes", (50, 2), samples=50, **options)]
  found = some(split="validation")
  assert [one.tolist() for one in found] == [long[5:55].tolist(), long[55:105].tolist(), short.tolist() + [0] * 47]
  first, second, third = some()
  assert second[0] == first[-1] + 1 and first[0] in range(-50, -39)
  assert third[third != 0].tolist() == short.tolist()
  starts = {some(seed=seed)[0][0] for seed in range(6)}
  assert len(starts) > 1
  with pytest.raises(UserError, match="long.wav has 8000 samples a second, and LocalMedia.rate = 4000: set that, or"):
    with_errors("local_audio_bytes", {"targets": 100}, rate=4000)
  assert len(some(resample=True)) == 2


def with_errors(name, lengths, **options):
  for key, value in options.items():
    gin.bind_parameter(f"LocalMedia.{key}", value)
  return next(Dataset(DatasetConfig(name, lengths, 1, "lm")).train())


def test_video_bytes(tmp_path):
  frames = grey_frames(10, 8)
  videos.write(Video(frames, 10), tmp_path / "a.gif")
  write([{"video": "a.gif"}], [{"video": "a.gif"}])
  some = lambda **options: [one[:, 0, 0, 0].tolist() for one in bytes_of(
      "local_video_bytes", (options["frames"], 4, 4, 1), size=(4, 4), channels=1, **options)]
  greys = frames[:, 0, 0, 0].tolist()
  assert some(frames=4, split="validation") == [greys[1:5], greys[5:9]]
  assert some(frames=4)[0] in [greys[k:k + 4] for k in range(3)]
  assert some(frames=12) == [greys + greys[-1:] * 2]
  assert some(frames=5, fps=5) == [greys[::2]]


@pytest.mark.parametrize("name", ["local_media", "local_media_to_text", "local_text_to_media", "local_media_both_ways",
                                  "local_image_bytes", "local_audio_bytes", "local_video_bytes"])
def test_gin_file_names_its_task(name):
  gin.clear_config()
  gin.parse_config_file(str(configuration.SHIPPED / "data" / f"{name}.gin"))
  assert gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value") == name
  features = {"stream": {"targets"}, "lm": {"targets"}, "prefix_lm": {"inputs", "targets"}}
  converter = "stream"
  if name != "local_media":
    converter = gin.query_parameter("DatasetConfig.feature_converter")
  assert seqio.get_mixture_or_task(name).output_features.keys() == features[converter]


def test_sorted_lines_are_mixed():
  """A set that is sorted by label trains in no such order, though neighbours are coded together."""
  pngs(pathlib.Path("."), 1)
  write([{"image": "0.png", "text": f"{number // 600}"} for number in range(2400)])
  names = [parts(one["targets"])[-1] for one in read("local_media_to_text", shuffle=True)]
  for name in "0123":
    assert abs(names[:300].count(name) - 75) < 40, "each of four in the first eighth"
