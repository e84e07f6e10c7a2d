"""Codecs, exact and learned: what every one of them does, whatever it is of and whatever size its media have."""

import dataclasses
import hashlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media import codec_files, exact
from gpt4x.media.codec_module import CodecConfig, CodecModule, scaled, to_cells, unscaled
from gpt4x.media.medium import Audio, Image, Video
from tests.media import codecs
from tests.media.codecs import audio, codec, image, video

EXACT = {"grey": exact.GreyPixels, "rgb pixels": exact.RgbPixels, "pcm": lambda: exact.Pcm(800),
         "residual": lambda: exact.Residual(800)}
MEDIA = {  # What each takes, in several sizes.
    "grey": [image(3, 5), image(1, 1, seed=1)], "rgb pixels": [image(3, 5, 3), image(2, 2, 3)],
    "pcm": [audio(size, seed=size) for size in (0, 1, 9)],
    "residual": [audio(size, seed=size) for size in (0, 1, 9, 300)],
    "image": [image(4, 6), image(2, 2), image(4, 6, seed=1), image(8, 2)], "rgb": [image(4, 6, 3), image(6, 2, 3)],
    "audio": [audio(size, seed=size) for size in (0, 1, 7, 8, 9, 100, 300)],
    "video": [video(frames) for frames in (1, 2, 3, 4, 70)] + [video(3, 2, 2)],
}


def make(name):
  return EXACT[name]() if name in EXACT else codec(name)


def content(medium):
  return {"image": "pixels", "audio": "samples", "video": "frames"}[medium.medium]


every = pytest.mark.parametrize("name", MEDIA)
learned = pytest.mark.parametrize("name", codecs.CONFIGS)


@every
def test_what_a_codec_says_of_itself(name):
  one, axes = make(name), {"image": 2, "audio": 1, "video": 3}
  codes = one.encode_all(MEDIA[name])
  for found, medium in zip(codes, MEDIA[name], strict=True):
    assert medium.medium == one.medium and found.dtype == np.int32
    assert found.ndim == axes[one.medium] + 1 and found.shape[-1] == len(one.num_codes)
    assert (found >= 0).all() and (found < np.array(one.num_codes)).all()
  assert len(one.fingerprint) == 16 and int(one.fingerprint, 16) >= 0
  assert one.fingerprint == make(name).fingerprint
  if one.exact or one.medium == "image":  # Each cell stands for so many units.
    assert math.prod(codes[0].shape[:-1]) * one.units_per_cell == getattr(MEDIA[name][0], content(MEDIA[name][0])).size


def test_no_two_codecs_have_one_fingerprint():
  found = [make(name).fingerprint for name in MEDIA] + [exact.Pcm(801).fingerprint, exact.Residual(801).fingerprint]
  assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_codec_loses_nothing(name):
  one = make(name)
  assert one.exact
  for medium, codes in zip(MEDIA[name], one.encode_all(MEDIA[name])):
    again = one.decode(codes)
    np.testing.assert_array_equal(getattr(again, content(again)), getattr(medium, content(medium)))
    assert getattr(again, content(again)).dtype == getattr(medium, content(medium)).dtype


def test_pcm_is_a_high_and_a_low_byte():
  ends = np.array([-32768, -1, 0, 255, 32767], np.int16)
  codes = exact.Pcm(800).encode(Audio(ends, 800))
  assert codes.tolist() == [[0, 0], [127, 255], [128, 0], [128, 255], [255, 255]]
  assert exact.Pcm(800).shared_range is False and exact.RgbPixels().shared_range is True


@learned
def test_alone_or_among_others_a_medium_has_the_same_codes(name):
  one, media = codec(name), MEDIA[name] * 5  # More of a shape than go together at a time.
  together = one.encode_all(media)
  assert any(not np.array_equal(together[0], other) for other in together[1:])
  for medium, codes in zip(media[:len(MEDIA[name])], together):
    np.testing.assert_array_equal(one.encode(medium), codes)
  for codes, decoded in zip(together, one.decode_all(together), strict=True):
    alone = one.decode(codes)
    np.testing.assert_array_equal(getattr(alone, content(alone)), getattr(decoded, content(decoded)))


@learned
def test_the_codes_are_the_modules(name):
  """The module by itself, on a medium that is not filled up with anything."""
  one = codec(name)
  for medium in MEDIA[name][:3]:
    cells = to_cells(one.config, scaled(jnp.asarray(getattr(medium, content(medium)))[None]))
    made, expected = CodecModule(one.config).apply({"params": one.params}, cells)
    codes = one.encode(medium)
    assert codes.shape == expected.shape[1:]
    assert np.mean(codes == expected[0]) > 0.99  # A number at the edge of its bin may be rounded otherwise.
    decoded = CodecModule(one.config).apply({"params": one.params}, expected, method="decode")
    np.testing.assert_allclose(decoded, made, atol=1e-4)


@learned
def test_the_size_of_what_is_decoded(name):
  one = codec(name)
  for medium in MEDIA[name]:
    again = one.decode(one.encode(medium))
    given, found = getattr(medium, content(medium)), getattr(again, content(again))
    assert found.dtype == given.dtype and found.shape[1:] == given.shape[1:]
    step = {"image": 1, "audio": one.config.hop, "video": one.config.time_patch}[one.medium]
    assert len(given) <= len(found) < len(given) + step
  if one.medium == "audio":
    assert again.rate == one.config.rate
  if one.medium == "video":
    assert again.fps == 5.0 and again.sound is None


@pytest.mark.parametrize("count", [2, 3, 6, 7, 40])
def test_later_frames_change_no_earlier_code_nor_frame(count):
  one, whole = codec("video"), video(count)
  codes = one.encode(whole)
  assert len(codes) == 1 + math.ceil((count - 1) / 2)
  differs = False
  for cells in range(1, len(codes)):
    seen = 1 + (cells - 1) * 2
    changed = whole.frames.copy()
    changed[seen:] = 255 - changed[seen:]
    other = one.encode(Video(changed, 5.0))
    np.testing.assert_array_equal(other[:cells], codes[:cells])
    differs |= not np.array_equal(other[cells:], codes[cells:])
    np.testing.assert_array_equal(one.encode(Video(whole.frames[:seen], 5.0)), codes[:cells])
    np.testing.assert_array_equal(one.decode(codes[:cells]).frames, one.decode(codes).frames[:seen])
  assert differs


def test_later_sound_changes_no_earlier_code_nor_sample():
  one, whole = codec("audio"), audio(200)
  codes, decoded = one.encode(whole), one.decode(one.encode(whole)).samples
  for frames in (1, 4, 11):
    changed = whole.samples.copy()
    changed[8 * frames:] = 0
    np.testing.assert_array_equal(one.encode(Audio(changed, 800))[:frames], codes[:frames])
    np.testing.assert_array_equal(one.decode(codes[:frames]).samples, decoded[:8 * (frames - 1)])


@pytest.mark.parametrize("name, shape", [
    ("image", (0, 3, 1)), ("audio", (0, 2)), ("audio", (1, 2)), ("video", (0, 2, 2, 1))])
def test_no_cells_are_no_picture_and_no_sound(name, shape):
  found = codec(name).decode(np.zeros(shape, np.int32))
  assert getattr(found, content(found)).size == 0


def test_a_codec_of_videos_is_one_of_images_and_the_other_way_round():
  one, picture = codec("video"), image(4, 6)
  as_image = one.of("image")
  assert (as_image.medium, one.medium, as_image.fingerprint) == ("image", "video", one.fingerprint)
  codes = as_image.encode(picture)
  np.testing.assert_array_equal(codes, one.encode(Video(picture.pixels[None], 5.0))[0])
  np.testing.assert_array_equal(as_image.decode(codes).pixels, one.decode(codes[None]).frames[0])
  by_frames, clip = codec("image").of("video"), video(3)
  codes = by_frames.encode(clip)
  np.testing.assert_array_equal(codes, np.stack([codec("image").encode(Image(frame)) for frame in clip.frames]))
  np.testing.assert_array_equal(
      by_frames.decode(codes).frames, np.stack([codec("image").decode(frame).pixels for frame in codes]))
  assert by_frames.decode(codes[:0]).frames.shape == (0, 4, 6, 1)
  with pytest.raises(UserError, match="a codec of audio is none of image: name another"):
    codec("audio").of("image")


def test_pixels_and_samples_are_scaled_once():
  assert scaled(jnp.array([0, 255], jnp.uint8)).tolist() == [-1, 1]
  assert scaled(jnp.array([-32768, 16384], jnp.int16)).tolist() == [-1, 0.5]
  pixels, samples = np.arange(256, dtype=np.uint8), np.arange(-32768, 32768, dtype=np.int16)
  np.testing.assert_array_equal(unscaled(codecs.CONFIGS["image"], scaled(jnp.asarray(pixels))), pixels)
  np.testing.assert_array_equal(unscaled(codecs.CONFIGS["audio"], scaled(jnp.asarray(samples))), samples)
  assert unscaled(codecs.CONFIGS["image"], jnp.array([-9.0, 9.0])).tolist() == [0, 255]
  assert unscaled(codecs.CONFIGS["audio"], jnp.array([-9.0, 9.0])).tolist() == [-32768, 32767]


def test_channels_are_made_to_fit():
  grey, rgb = exact.GreyPixels(), exact.RgbPixels()
  one = lambda *values: Image(np.array([[values]], np.uint8))
  codes = lambda codec, *values: codec.encode(one(*values))[0, 0].tolist()
  assert codes(rgb, 7) == [7, 7, 7]
  assert codes(grey, 255, 0, 0) == [76] and codes(grey, 9, 9, 9) == [9] and codes(grey, 255, 255, 255) == [255]
  assert codes(rgb, 10, 20, 30, 255) == [10, 20, 30] and codes(rgb, 10, 20, 30, 0) == [255, 255, 255]
  assert codes(rgb, 0, 100, 200, 51) == [204, 224, 244] and codes(grey, 10, 255) == [10] and codes(grey, 10, 0) == [255]


@pytest.mark.parametrize("name, medium, words", [
    ("image", image(3, 4), r"a picture is 3 high and 4 wide, and the codec takes multiples of 2: .*image_size"),
    ("image", audio(8), "this codec is of image, and audio was given"),
    ("grey", Image(np.zeros((2, 2, 1), np.float32)), "pixels are float32: give uint8"),
    ("rgb", image(2, 2, 5), "pixels have 5 channels"),
    ("pcm", audio(8, 8000), "a sound has 8000 samples a second, and the codec takes 800: .*MediaTokens.resample"),
    ("audio", audio(8, 8000), "a sound has 8000 samples a second, and the codec takes 800"),
    ("video", video(0), "a video has no frames"),
    ("grey", image(0, 3), "a picture is 0 high"),
])
def test_what_a_codec_does_not_take(name, medium, words):
  with pytest.raises(UserError, match=words):
    make(name).encode(medium)


@every
@pytest.mark.parametrize("wrong", [-1, "above", "shape", "kind"])
def test_what_is_no_code_never_reaches_a_decoder(name, wrong):
  one = make(name)
  codes = np.array(one.encode(MEDIA[name][-1]))
  if wrong == "shape":
    codes = codes[..., None]
  elif wrong == "kind":
    codes = codes.astype(np.float32)
  else:
    codes[-1, ..., -1] = one.num_codes[-1] if wrong == "above" else wrong
  with pytest.raises(UserError, match="is no code: those of this codec are from 0 to" if wrong in (-1, "above")
                     else "codes are .*: give whole numbers"):
    one.decode(codes)


# Directories.


@learned
def test_a_directory_gives_back_the_codec(name, tmp_path):
  one = codec(name)
  codec_files.save(tmp_path / "made" / "here", one)
  other = codec_files.load(tmp_path / "made" / "here")
  assert other.config == one.config and other.fingerprint == one.fingerprint
  jax.tree.map(np.testing.assert_array_equal, other.params, one.params)
  for medium in MEDIA[name]:
    np.testing.assert_array_equal(other.encode(medium), one.encode(medium))
  assert codec_files.of_files(one.files, "there").fingerprint == one.fingerprint


def test_a_directory_may_be_a_bucket(gs):
  codec_files.save(f"{gs}/codec", codec("image"))
  assert codec_files.load(f"{gs}/codec").fingerprint == codec("image").fingerprint
  with pytest.raises(UserError, match="no codec in .*/other"):
    codec_files.load(f"{gs}/other")


def test_a_codec_takes_the_place_of_none(tmp_path):
  codec_files.save(tmp_path, codec("image"))
  with pytest.raises(UserError, match="codec.safetensors is there already"):
    codec_files.save(tmp_path, codec("rgb"))
  assert codec_files.load(tmp_path).fingerprint == codec("image").fingerprint


def test_another_directory_in_the_place_of_a_codecs(tmp_path):
  with pytest.raises(UserError, match=r"no codec in .*nowhere \(codec.json is missing\): name a directory that gpt4x"):
    codec_files.load(tmp_path / "nowhere")
  (tmp_path / "config.gin").write_text("")
  with pytest.raises(UserError, match=f"is the directory of a run: write its codec with gpt4x export "
                     f"--model_dir={tmp_path} --output=DIR"):
    codec_files.load(tmp_path)
  codec_files.save(tmp_path / "codec", codec("image"))
  (tmp_path / "codec" / "codec.safetensors").unlink()
  with pytest.raises(UserError, match="codec.safetensors is missing"):
    codec_files.load(tmp_path / "codec")


def edited(change, rehash=False):
  """The files of the image codec with a change to what codec.json says."""
  files = dict(codec("image").files)
  content = json.loads(files["codec.json"])
  change(content)
  return files | {"codec.json": json.dumps(content).encode()}


@pytest.mark.parametrize("change, words", [
    (lambda c: c.update(format="other"), "has format 'other', version 1, not 'gpt4x codec', 1"),
    (lambda c: c.update(version=9), "version 9"),
    (lambda c: c.pop("config"), "codec.json: KeyError"),
    (lambda c: c["config"].update(width="8"), "has width = '8', which must be a whole number"),
    (lambda c: c["config"].update(width=10**9), "CodecConfig.width = 1000000000 must be"),
    (lambda c: c["config"].update(depth=10**9), "CodecConfig.depth = 1000000000 must be"),
    (lambda c: c["config"].update(patch=0), "CodecConfig.patch = 0 must be"),
    (lambda c: c["config"].update(patches=3), "unknown field patches: did you mean patch?"),
    (lambda c: c["config"].update(width=9), r"is \[.*8.*\], and \[.*9.*\] by codec.json"),
    (lambda c: c["config"].update(depth=2), "is missing, and"),
    (lambda c: c["config"].update(levels=[4, 1]), r"CodecConfig.levels = \(4, 1\) must be whole numbers from 2"),
    (lambda c: c["config"].pop("medium"), "codec.json: .*medium"),
    (lambda c: c.update(sha256="0"), "codec.safetensors is not the file that codec.json was written with"),
])
def test_a_damaged_configuration_is_one_line(change, words):
  with pytest.raises(UserError, match=words) as error:
    codec_files.of_files(edited(change), "here")
  assert "here" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 5000, b"{}" * 2])
def test_any_content_is_told_of_in_one_line(content):
  with pytest.raises(UserError, match="the codec in here is damaged .*: copy both of its files there again"):
    codec_files.of_files(codec("image").files | {"codec.json": content}, "here")
  tensors = {"codec.safetensors": content}
  with pytest.raises(UserError, match="the codec in here is damaged"):
    codec_files.of_files(edited(lambda c: c.update(sha256=hashlib.sha256(content).hexdigest())) | tensors, "here")


def test_a_flipped_bit_is_found():
  tensors = bytearray(codec("image").files["codec.safetensors"])
  tensors[-9] ^= 1
  with pytest.raises(UserError, match="codec.safetensors is not the file"):
    codec_files.of_files(codec("image").files | {"codec.safetensors": bytes(tensors)}, "here")


# Sizes.


@pytest.mark.parametrize("name, num_codes", [("image", (1000,)), ("audio", (1000, 1000)), ("video", (240,))])
def test_shipped_codecs_are_small(name, num_codes):
  from gpt4x import configuration
  configuration.load([f"models/{name}_codec.gin"], partial=True)
  config = CodecConfig()
  assert config.num_params() <= 300_000 and config.num_codes == num_codes
  shapes = jax.eval_shape(CodecModule(config).init, jax.random.key(0), jnp.zeros(
      (1, *(5,) * config.num_axes, config.units_per_cell)))
  assert config.num_params() == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_flops_are_those_of_the_products():
  """As the compiler counts them, where a window sees no edge."""
  config = dataclasses.replace(codecs.CONFIGS["image"], kernel=1)
  cells = jnp.zeros((1, 16, 16, config.units_per_cell))
  module = CodecModule(config)
  params = jax.eval_shape(module.init, jax.random.key(0), cells)
  counted = jax.jit(module.apply).lower(params, cells).cost_analysis()["flops"]
  assert config.flops_per_token(1024) * 1024 == pytest.approx(counted, rel=0.5)
  assert config.flops_per_token(1024, training=True) == 3 * config.flops_per_token(1024)
