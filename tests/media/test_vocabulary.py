"""The vocabulary of text and media: what it encodes, what a run keeps of it, and what it is known by."""

import dataclasses
import json
import pathlib

import gin
import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x import run_directory
from gpt4x.data import vocabularies
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.fingerprint import fingerprint, task_key
from gpt4x.errors import UserError
from gpt4x.media import codec_files, fitting
from gpt4x.media.layout import MODALITIES
from gpt4x.media.medium import Audio, Image, Video
from gpt4x.media.vocabulary import MediaTokens, MediaVocabulary
from tests.media import codecs

EXACT = MediaTokens(image="grey", audio="pcm:800")
EOS = 1


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """Directories of codecs: image, audio, video, and `other`, of images too."""
  folder = tmp_path_factory.mktemp("codecs")
  for name in ("image", "audio", "video"):
    codec_files.save(folder / name, codecs.codec(name))
  config = dataclasses.replace(codecs.CONFIGS["image"], levels=(3, 4))
  params = jax.tree.map(np.negative, codecs.params_of(config))
  codec_files.save(folder / "other", codec_files.make(config, params))
  return folder


def learned(folder, **changes):
  names = {medium: str(folder / medium) for medium in ("image", "audio", "video")}
  return MediaTokens(**names | changes)


def assert_same(one, other):
  assert type(one) is type(other)
  if isinstance(one, Image):
    np.testing.assert_array_equal(one.pixels, other.pixels)
  elif isinstance(one, Audio):
    assert one.rate == other.rate
    np.testing.assert_array_equal(one.samples, other.samples)
  else:
    assert one == other


# Encoding.


def test_text_ids_are_those_of_the_text_vocabulary():
  vocabulary, text = MediaVocabulary(EXACT), seqio.ByteVocabulary()
  for words in ("", "héllo <image>", "\n"):
    assert list(vocabulary.encode(words)) == list(text.encode(words)) == vocabulary.encode_tf(words).numpy().tolist()
    assert vocabulary.decode(vocabulary.encode(words)) == words
  assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.unk_id) == (text.eos_id, text.pad_id, text.unk_id)
  assert vocabulary.layout.ranges["text"] == range(text.vocab_size) and vocabulary.extra_ids == 0
  assert vocabulary.vocab_size == vocabulary.layout.size == 259 + 16 + 64 + 256 + 2 * 256
  sizes = vocabularies.token_bytes(vocabulary)
  np.testing.assert_array_equal(sizes[:259], vocabularies.token_bytes(text))
  assert sizes.shape == (vocabulary.vocab_size,) and not sizes[259:].any()


def test_parts_there_and_back():
  """Bit for bit by exact codecs; and codes stand for a medium as well as the medium itself."""
  vocabulary = MediaVocabulary(EXACT)
  parts = ["a ", codecs.image(3, 5), "b", codecs.audio(7), codecs.image(1, 1), codecs.audio(0), "ü"]
  ids = vocabulary.encode_parts(parts)
  assert ids.dtype == np.int32
  expected = [part for part in parts if not isinstance(part, Audio) or len(part.samples)]
  found = vocabulary.decode_parts(ids)
  assert len(found) == len(expected)
  for one, other in zip(found, expected):
    assert_same(one, other)
  spans = iter(vocabulary.encode_media([part for part in parts if not isinstance(part, str)]))
  same = vocabulary.encode_parts([part if isinstance(part, str) else next(spans) for part in parts])
  np.testing.assert_array_equal(same, ids)
  assert vocabulary.decode(ids.tolist()) == "a <image>b<audio><image><audio>ü"
  assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == "a <image>b<audio><image><audio>ü"
  assert vocabulary.encode_parts([]).tolist() == [] == vocabulary.decode_parts([])


def test_no_id_of_a_medium_is_taken_for_unknown_or_for_an_end(folder):
  """By seqio's own `decode`, which has both for ids of text; and several documents are all there."""
  vocabulary = MediaVocabulary(learned(folder))
  for medium in vocabulary.layout.media:
    for ids in vocabulary.layout.code_ranges(medium):
      assert ids[-1] < vocabulary._base_vocab_size == vocabulary.vocab_size
  image = vocabulary.encode_parts([codecs.image(4, 4)]).tolist()
  ids = [*image, *vocabulary.encode("a"), EOS, *image, *vocabulary.encode("b"), EOS]
  assert vocabulary.decode(ids) == "<image>a"
  found = vocabulary.decode_parts(ids)
  assert [one if isinstance(one, str) else one.medium for one in found] == ["image", "a", "image", "b"]
  assert vocabulary.decode_parts([*vocabulary.encode("a"), EOS, *vocabulary.encode("b")]) == ["ab"]


def test_codes_of_learned_codecs(folder):
  vocabulary = MediaVocabulary(learned(folder, sizes=8))
  image, audio, video = codecs.image(4, 6), codecs.audio(50), codecs.video(4)
  ids = vocabulary.encode_parts([image, audio, video])
  for span, medium in zip(vocabulary.layout.parse(ids), (image, audio, video), strict=True):
    np.testing.assert_array_equal(span.codes, codecs.codec(span.medium).encode_all([medium])[0])
    assert span.complete and span.sound is None
  found = vocabulary.decode_parts(ids)
  assert found[0].pixels.shape == (4, 6, 1) and found[1].rate == 800 and found[2].frames.shape[1:] == (4, 6, 1)


@pytest.mark.parametrize("samples", [0, 5, 80, 333])
def test_a_video_with_sound(folder, samples):
  """All cells of the sound, in their order, shared out to the latent frames."""
  vocabulary = MediaVocabulary(learned(folder))
  sound = codecs.audio(samples)
  span, = vocabulary.encode_media([dataclasses.replace(codecs.video(6), sound=sound)])
  assert len(span.sound) == len(span.codes) > 1
  cells = codecs.codec("audio").encode_all([sound])[0]
  np.testing.assert_array_equal(np.concatenate(span.sound), cells)
  assert max(map(len, span.sound)) - min(map(len, span.sound)) <= 1
  found, = vocabulary.decode_parts(vocabulary.layout.flatten(span))
  np.testing.assert_array_equal(found.sound.samples, codecs.codec("audio").decode(cells).samples)
  silent = MediaVocabulary(learned(folder, audio=None))
  assert silent.encode_media([dataclasses.replace(codecs.video(6), sound=sound)])[0].sound is None


def test_what_is_cut_is_decoded_as_far_as_it_came(folder):
  """And no codec is given a code that there is not, whatever the ids."""
  vocabulary = MediaVocabulary(dataclasses.replace(EXACT, image="rgb"))
  ids = vocabulary.encode_parts([codecs.image(3, 2, 3)])
  for length in range(len(ids)):
    found = vocabulary.decode_parts(ids[:length])
    rows = max(0, (length - 3) // 7)
    assert [one.pixels.shape for one in found] == ([(rows, 2, 3)] if rows else [])
  vocabulary = MediaVocabulary(learned(folder))
  ids = vocabulary.encode_parts([codecs.audio(30)])
  lengths = [[len(one.samples) for one in vocabulary.decode_parts(ids[:length])] for length in range(len(ids))]
  assert [] in lengths and [0] not in lengths and max(lengths)[0] >= 24
  ids = vocabulary.encode_parts([codecs.audio(30), codecs.image(4, 4), codecs.video(3)])
  rng = np.random.default_rng(0)
  for _ in range(10):
    changed = ids.copy()
    changed[rng.integers(0, len(ids), 2)] = rng.integers(-2, vocabulary.vocab_size + 2, 2)
    vocabulary.decode_parts(changed)


def test_a_codec_of_both_images_and_videos_has_one_range(folder):
  vocabulary = MediaVocabulary(MediaTokens(image=str(folder / "video"), video=str(folder / "video")))
  layout = vocabulary.layout
  assert layout.video_is_image and "video.0" not in layout.ranges
  assert layout.code_ranges("image") == layout.code_ranges("video")
  ids = vocabulary.encode_parts([codecs.image(4, 4), codecs.video(3)])
  assert [span.medium for span in layout.parse(ids)] == ["image", "video"]
  assert [one.medium for one in vocabulary.decode_parts(ids)] == ["image", "video"]
  apart = MediaVocabulary(MediaTokens(image=str(folder / "image"), video=str(folder / "video")))
  assert not apart.layout.video_is_image and "video.0" in apart.layout.ranges


def test_what_targets_count_for(folder):
  vocabulary = MediaVocabulary(learned(folder))
  of = lambda vocabulary: {name: set(vocabulary.loss_weights[vocabulary.modality == i].tolist())
                           for i, name in enumerate(MODALITIES) if (vocabulary.modality == i).any()}
  assert of(vocabulary) == {"text": {1.0}, "image": {0.5}, "audio": {0.5}, "video": {0.5}, "structure": {1.0}}
  assert vocabulary.loss_weights.dtype == np.float32 and vocabulary.loss_weights.shape == (vocabulary.vocab_size,)
  assert of(MediaVocabulary(EXACT)) == {"text": {1.0}, "image": {1.0}, "audio": {1.0}, "structure": {1.0}}
  given = MediaVocabulary(learned(folder, loss_weights={"image": 0.25, "structure": 0}))
  assert of(given) == {"text": {1.0}, "image": {0.25}, "audio": {0.5}, "video": {0.5}, "structure": {0.0}}


# Media of other sizes and rates.


@pytest.mark.parametrize("size, patch, wanted, most, expected", [
    ((30, 20), 4, None, None, (30, 20)), ((30, 20), 4, (8, 12), None, (8, 12)), ((30, 20), 4, (8, 12), 8, (8, 12)),
    ((400, 100), 4, None, 64, (64, 16)), ((400, 100), 4, None, 62, (60, 16)), ((5, 400), 4, None, 64, (4, 64)),
    ((30, 20), 4, None, 64, (32, 20)), ((31, 20), 1, None, 64, (31, 20)), ((62, 62), 4, None, 62, (60, 60))])
def test_the_size_that_a_picture_is_given(size, patch, wanted, most, expected):
  assert fitting.fitted_size(*size, patch, wanted, most) == expected


@pytest.mark.parametrize("settings", [{"image_size": (8, 16), "max_side": None}, {"image_size": None, "max_side": 16}])
def test_pictures_are_made_smaller_without_aliases(settings):
  """Of a chess board of single pixels a grey is left, in images and in each frame of a video."""
  board = (np.indices((64, 128)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
  image, video = Image(board), Video(np.stack([board, 255 - board, board // 2]), 5.0)
  image, video = (fitting.fit(one, codecs.codec("image"), settings) for one in (image, video))
  assert image.pixels.shape == (8, 16, 1) and video.frames.shape == (3, 8, 16, 1) and video.frames.dtype == np.uint8
  for pixels, grey in ((image.pixels, 127), *zip(video.frames, (127, 127, 63))):
    assert np.abs(pixels.astype(int) - grey).max() <= 2


def test_media_that_do_not_fit_are_made_to_or_refused(folder):
  tokens = learned(folder, image_size=8)
  span, = MediaVocabulary(tokens).encode_media([codecs.image(30, 21)])
  assert span.codes.shape == (4, 4, 1)
  span, = MediaVocabulary(tokens).encode_media([codecs.video(3, 30, 21)])
  assert span.codes.shape[1:3] == (4, 4)
  with pytest.raises(UserError, match="30 high and 21 wide.*MediaTokens.image_size or max_side"):
    MediaVocabulary(learned(folder)).encode_media([codecs.image(30, 21)])
  with pytest.raises(UserError, match="has 16000 samples a second, and the codec takes 800: .*MediaTokens.resample"):
    MediaVocabulary(EXACT).encode_media([codecs.audio(99, 16000)])
  span, = MediaVocabulary(dataclasses.replace(EXACT, resample=True)).encode_media([codecs.audio(2000, 16000)])
  assert span.codes.shape == (100, 2)
  with pytest.raises(UserError, match="the image has 65 x 1 cells, and MediaTokens.sizes = 64 allows.*image_size"):
    MediaVocabulary(EXACT).encode_parts([codecs.image(65, 1)])
  with pytest.raises(UserError, match="no codec of video: set MediaTokens.video"):
    MediaVocabulary(EXACT).encode_parts([codecs.video(2)])


# What a run keeps.


@pytest.fixture(params=["exact", "learned"], name="tokens")
def _tokens(request, folder):
  return EXACT if request.param == "exact" else learned(folder, loss_weights={"image": 0.25}, image_size=4, sizes=9)


def test_saved_and_loaded_it_is_the_same(tokens, tmp_path):
  """Wherever the codecs' directories are by then."""
  vocabulary = MediaVocabulary(tokens)
  vocabularies.save(vocabulary, tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted([
      run_directory.OWN_VOCABULARY, run_directory.VOCABULARY])
  loaded = vocabularies.load(tmp_path)
  assert isinstance(loaded, MediaVocabulary)
  assert vocabularies.spec(loaded) == vocabularies.spec(vocabulary) and vocabularies.alike(loaded, vocabulary)
  assert loaded.layout == vocabulary.layout and loaded.settings == vocabulary.settings
  np.testing.assert_array_equal(loaded.loss_weights, vocabulary.loss_weights)
  parts = ["a", codecs.image(4, 4), codecs.audio(30)]
  ids = vocabulary.encode_parts(parts)
  np.testing.assert_array_equal(loaded.encode_parts(parts), ids)
  for one, other in zip(loaded.decode_parts(ids), vocabulary.decode_parts(ids)):
    assert_same(one, other)
  vocabularies.save(loaded, tmp_path / "again")
  for name in (run_directory.OWN_VOCABULARY, run_directory.VOCABULARY):
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
  assert loaded.to_bytes() == vocabulary.to_bytes() == vocabulary.held().to_bytes()
  told = json.loads((tmp_path / run_directory.VOCABULARY).read_text())
  assert told["text"] == "ByteVocabulary" and {"image", "audio", "loss_weights"} <= set(told)


def test_what_it_is_known_by(folder, tmp_path):
  """Another codec, size or text is another vocabulary; other weights are not another one to start from."""
  base = learned(folder)
  specs = [vocabularies.spec(MediaVocabulary(tokens)) for tokens in (
      base, learned(folder, image=str(folder / "other")), learned(folder, sizes=63), learned(folder, max_side=8),
      learned(folder, image_size=8), learned(folder, resample=True), learned(folder, audio=None),
      learned(folder, image="grey"), learned(folder, audio="pcm:800"), learned(folder, audio="pcm:400"))]
  assert len({spec["sha256"] for spec in specs}) == len(specs)
  weighted = MediaVocabulary(learned(folder, loss_weights={"text": 2.0}))
  assert vocabularies.spec(weighted)["sha256"] == specs[0]["sha256"] and vocabularies.spec(weighted) != specs[0]
  vocabularies.save(MediaVocabulary(base), tmp_path)
  vocabularies.check_alike(weighted, "a task", tmp_path)
  with pytest.raises(UserError, match="a task has the vocabulary MediaVocabulary .*audio.* was trained with MediaVoc"):
    vocabularies.check_alike(MediaVocabulary(learned(folder, audio=None)), "a task", tmp_path)


def test_a_damaged_file(tmp_path):
  vocabularies.save(MediaVocabulary(EXACT), tmp_path)
  path = tmp_path / run_directory.OWN_VOCABULARY
  content = path.read_bytes()
  path.write_bytes(content[:-1])
  with pytest.raises(UserError, match="vocabulary.bin is damaged"):
    vocabularies.load(tmp_path)
  for wrong in (b"", b"text", content[:100]):
    with pytest.raises(UserError, match="x.bin holds no vocabulary of media"):
      MediaVocabulary.from_bytes(wrong, "x.bin")


# Text.


@pytest.fixture(scope="module", name="spm")
def _spm(tmp_path_factory):
  path = tmp_path_factory.mktemp("spm") / "text.model"
  lines = [f"attends to segment {i} of its past and remembers {i * i}" for i in range(400)]
  vocabularies.train_sentencepiece(iter(lines), 300, path)
  return path


def test_text_by_a_model_or_of_a_run(spm, tmp_path):
  vocabulary = MediaVocabulary(dataclasses.replace(EXACT, text=str(spm)))
  text = vocabularies.LosslessSentencePieceVocabulary(spm)
  words = "attends to 17 segments "
  assert list(vocabulary.encode(words)) == list(text.encode(words)) == vocabulary.encode_tf(words).numpy().tolist()
  assert vocabulary.layout.text_size == text.vocab_size
  parts = [words, codecs.image(2, 3), " its past"]
  found = vocabulary.decode_parts(vocabulary.encode_parts(parts))
  assert [found[0], found[2]] == [parts[0], parts[2]]
  for name, kept in (("spm", text), ("bytes", seqio.ByteVocabulary())):
    vocabularies.save(kept, tmp_path / name)
    of_run = MediaVocabulary(dataclasses.replace(EXACT, text=str(tmp_path / name)))
    assert of_run.layout.text_size == kept.vocab_size and list(of_run.encode(words)) == list(kept.encode(words))
    assert vocabularies.extends(of_run, tmp_path / name) == kept.vocab_size
    vocabularies.check_alike(of_run, "a task", tmp_path / name)
  assert vocabularies.extends(vocabulary, tmp_path / "bytes") is None
  with pytest.raises(UserError, match="a task has the vocabulary MediaVocabulary.*trained with ByteVocabulary"):
    vocabularies.check_alike(vocabulary, "a task", tmp_path / "bytes")
  vocabularies.save(vocabulary, tmp_path / "media")
  with pytest.raises(UserError, match="a task has the vocabulary ByteVocabulary.*was trained with MediaVocabulary"):
    vocabularies.check_alike(seqio.ByteVocabulary(), "a task", tmp_path / "media")
  with pytest.raises(UserError, match="no vocabulary at .*nowhere.model"):
    MediaVocabulary(dataclasses.replace(EXACT, text=str(tmp_path / "nowhere.model"))).encode("a")


# Errors.


def test_names_of_no_codec(folder, tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / run_directory.CONFIG).write_text("")
  missing = str(tmp_path / "nothing")
  no_codec = f"= '{missing}': no codec in {missing} "
  for tokens, message in (
      (MediaTokens(image=missing), f"^MediaTokens.image {no_codec}.*or name one of grey, rgb"),
      (MediaTokens(audio=missing), f"^MediaTokens.audio {no_codec}.*or name one of pcm:RATE, residual:RATE"),
      (MediaTokens(video=missing), f"^MediaTokens.video {no_codec}"),
      (MediaTokens(image=str(tmp_path / "run")), "MediaTokens.image = .*directory of a run.*gpt4x export --model_dir="),
      (MediaTokens(image=str(folder / "audio")), "MediaTokens.image = .*a codec of audio is none of image"),
      (MediaTokens(audio="pcm:"), "MediaTokens.audio = 'pcm:' has no sample rate"),
      (MediaTokens(audio="residual:8k"), "MediaTokens.audio = 'residual:8k' has no sample rate.*residual:8000"),
      (MediaTokens(audio="pcm:0"), "MediaTokens.audio = 'pcm:0' has no sample rate")):
    with pytest.raises(UserError, match=message) as caught:
      _ = MediaVocabulary(tokens).vocab_size
    assert "\n" not in str(caught.value)
  for values, message in (
      ({"sizes": 0}, "MediaTokens.sizes = 0 must be"), ({"image_size": (1, 2, 3)}, "MediaTokens.image_size = "),
      ({"image_size": 0}, "MediaTokens.image_size"), ({"max_side": 0}, "MediaTokens.max_side = 0"),
      ({"loss_weights": {"images": 1}}, "MediaTokens.loss_weights names 'images': did you mean image"),
      ({"loss_weights": {"image": -1}}, "MediaTokens.loss_weights = .* at least 0")):
    with pytest.raises(UserError, match=message):
      MediaTokens(**values)


def bind(**values):
  for name, value in values.items():
    gin.bind_parameter(f"MediaTokens.{name}", value)


def test_a_codec_that_changes_between_two_uses(folder, tmp_path):
  """It is read again; what is held stays."""
  codec_files.save(tmp_path / "codec", codecs.codec("image"))
  bind(image=str(tmp_path / "codec"))
  vocabulary = MediaVocabulary()
  held, image = vocabulary.held(), codecs.image(8, 8)
  before = vocabulary.encode_parts([image])
  for path in (tmp_path / "codec").iterdir():
    path.write_bytes((folder / "other" / path.name).read_bytes())
  assert (vocabulary.encode_parts([image]) != before).any()
  np.testing.assert_array_equal(held.encode_parts([image]), before)
  assert not vocabularies.alike(vocabulary, held)


# In tasks.


@pytest.fixture(name="task")
def _task():
  """A task of pictures and text, whose vocabulary is what gin says."""
  def targets(dataset, output_features):
    vocabulary = output_features["targets"].vocabulary
    encode = lambda i: np.asarray(vocabulary.encode_parts([f"{i}", codecs.image(4, 4, seed=int(i))]), np.int32)
    return dataset.map(lambda i: {"targets": tf.ensure_shape(tf.numpy_function(encode, [i], tf.int32), [None])})

  name, numbers = "toy_media", lambda split, shuffle_files, seed=None: tf.data.Dataset.range(5)
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(numbers, ["train"]),
      preprocessors=[targets, seqio.preprocessors.append_eos],
      output_features={"targets": seqio.Feature(MediaVocabulary(), add_eos=True)})
  yield name
  seqio.TaskRegistry.remove(name)


def data_of(task, own=None):
  return Dataset(DatasetConfig(task, {"targets": 16}, 2), own)


def test_a_task_has_what_gin_says(task, folder, tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  bind(image=str(folder / "image"))
  data = data_of(task)
  documents = list(data.documents("train"))
  assert len(documents) == 5
  for i, ids in enumerate(sorted(documents, key=lambda ids: ids[0])):
    assert ids[-1] == EOS and data.vocabulary.decode(ids.tolist()) == f"{i}<image>"
    text, span, end = data.vocabulary.layout.parse(ids)
    np.testing.assert_array_equal(span.codes, codecs.codec("image").encode_all([codecs.image(4, 4, seed=i)])[0])
    assert end.tolist() == [EOS] and span.complete and data.vocabulary.text.decode(text.tolist()) == str(i)
  assert ids.max() >= data.vocabulary.layout.ranges["image.0"].start
  batch = next(data.train())
  assert batch["decoder_target_tokens"].max() < data.vocabulary.vocab_size


def test_another_codec_makes_other_tokens(task, folder):
  """By the key of prepared data: of the codec, of what images are resized to, of the text; not of loss weights."""
  def key(**values):
    gin.clear_config()
    bind(**values)
    return task_key(data_of(task).provider, "train")

  image = str(folder / "image")
  first = key(image=image)
  assert first == key(image=image) == key(image=image, loss_weights={"image": 3.0})
  others = [key(image=str(folder / "other")), key(image=image, image_size=8), key(image=image, sizes=32),
            key(image="grey"), key(image=image, audio="pcm:800")]
  assert len({first, *others}) == len(others) + 1
  held = MediaVocabulary(MediaTokens(image=image)).held()
  assert fingerprint(held) == fingerprint(MediaVocabulary(MediaTokens(image=image)))
  assert fingerprint(held) != fingerprint(MediaVocabulary(MediaTokens(image=str(folder / "other"))))


def test_another_codec_in_the_same_place_makes_new_token_stores(task, folder, tmp_path, monkeypatch):
  """Whose codes are its own; the first codec finds its store again."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  place, image = tmp_path / "codec", codecs.image(4, 4, seed=0)
  place.mkdir()
  bind(image=str(place))
  stores = lambda: set((tmp_path / "data" / "tokens").iterdir())
  found = []
  for name in ("image", "other", "image"):
    for path in (folder / name).iterdir():
      (place / path.name).write_bytes(path.read_bytes())
    data = data_of(task)
    document, = (ids for ids in data.documents("train") if data.vocabulary.decode(ids.tolist()) == "0<image>")
    found.append((document.tolist(), stores()))
    span = data.vocabulary.layout.parse(document)[1]
    np.testing.assert_array_equal(span.codes, codec_files.load(folder / name).encode(image))
  assert found[0][0] != found[1][0] and found[0][1] < found[1][1]
  assert found[2] == (found[0][0], found[1][1])


def test_a_run_is_read_with_its_own(task, folder, tmp_path):
  """Where the codec is gone; where there is another in its place, that is said, with both fingerprints."""
  place = tmp_path / "codec"
  codec_files.save(place, codecs.codec("image"))
  bind(image=str(place), loss_weights={"image": 0.25})
  vocabularies.save(data_of(task).vocabulary, tmp_path / "run")
  own = vocabularies.load(tmp_path / "run")
  assert data_of(task, own).vocabulary.to_bytes() == own.to_bytes()
  for path in place.iterdir():
    path.write_bytes((folder / "other" / path.name).read_bytes())
  fingerprints = [codecs.codec("image").fingerprint, codec_files.load(folder / "other").fingerprint]
  with pytest.raises(UserError, match=f"task toy_media has the vocabulary MediaVocabulary {place} .*image"
                     f" {fingerprints[1]}.*the run was trained with MediaVocabulary .*run.*image {fingerprints[0]}.*"
                     ": give the task that one, or start in a new directory"):
    data_of(task, own)
  for path in place.iterdir():
    path.unlink()
  data = data_of(task, own)
  assert data.vocabulary is own
  with pytest.raises(UserError, match=f"MediaTokens.image = '{place}': no codec in"):
    data_of(task)


def test_text_by_a_bare_name_is_the_run_s(task, spm, tmp_path, monkeypatch):
  """As of any task: what the name stands for today does not matter to a run."""
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path))
  names = tmp_path / "vocabularies"
  names.mkdir()
  (names / "words.model").write_bytes(spm.read_bytes())
  bind(image="grey", text="words")
  own = data_of(task).vocabulary
  vocabularies.save(own, tmp_path / "run")
  vocabularies.train_sentencepiece(iter([f"other words {i}" for i in range(400)]), 290, names / "words.model")
  loaded = vocabularies.load(tmp_path / "run")
  assert data_of(task, loaded).vocabulary.to_bytes() == own.to_bytes() != data_of(task).vocabulary.to_bytes()
  (names / "words.model").unlink()
  assert data_of(task, loaded).vocabulary.to_bytes() == own.to_bytes()


def test_features_of_one_task_share_a_vocabulary(folder):
  """seqio compares the vocabularies of features and of a mixture's tasks."""
  bind(image=str(folder / "image"))
  assert MediaVocabulary() == MediaVocabulary() != MediaVocabulary(EXACT)
  assert MediaVocabulary().held() == MediaVocabulary().held() != MediaVocabulary(EXACT).held()
  assert MediaVocabulary() != seqio.ByteVocabulary() and pathlib.Path(MediaVocabulary().file) == folder / "image"
