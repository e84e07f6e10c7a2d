import io

import numpy as np
import PIL.Image
import pytest

from gpt4x.errors import UserError
from gpt4x.media.files import images
from gpt4x.media.medium import Image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path, array, mode=None, **options):
  PIL.Image.fromarray(array, mode).save(path, **options)
  return images.read(path).pixels


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_lossless_comes_back_as_it_was(tmp_path, suffix, channels):
  pixels = np.repeat(RAMP[..., None], channels, -1)
  images.write(Image(pixels), tmp_path / f"a.{suffix}")
  found = images.read(tmp_path / f"a.{suffix}").pixels
  assert found.dtype == np.uint8  # Scaled nowhere.
  np.testing.assert_array_equal(found[..., :1], pixels[..., :1])
  assert found.shape == (16, 16, 3) or suffix != "webp" and found.shape == pixels.shape


def test_a_jpeg_comes_back_nearly(tmp_path):
  rows, columns = np.mgrid[:32, :48]
  pixels = np.stack([rows * 8, columns * 5, 255 - rows * 8], -1).astype(np.uint8)
  images.write(Image(pixels), tmp_path / "a.jpg")
  found = images.read(tmp_path / "a.jpg").pixels
  assert np.abs(found.astype(int) - pixels).mean() < 3


def test_what_is_transparent_lies_on_white(tmp_path):
  colour = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 51]]], np.uint8)
  expected = [[10, 20, 30], [255, 255, 255], [206, 208, 210]]
  assert save(tmp_path / "a.png", colour).tolist() == [expected]
  grey = np.array([[[10, 255], [10, 0]]], np.uint8)
  assert save(tmp_path / "b.png", grey).tolist() == [[[10], [255]]]
  palette = PIL.Image.fromarray(np.array([[0, 1]], np.uint8), "P")
  palette.putpalette([1, 2, 3, 4, 5, 6])
  palette.save(tmp_path / "c.png", transparency=1)
  assert images.read(tmp_path / "c.png").pixels.tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_one_and_sixteen_bits_are_eight(tmp_path):
  assert save(tmp_path / "a.png", np.array([[0, 255]], np.uint8) > 0).tolist() == [[[0], [255]]]
  wide = np.array([[0, 128, 129, 257, 300, 65535, 65407, 65406]], np.uint16)
  expected = [[[0], [0], [1], [1], [1], [255], [255], [254]]]
  assert save(tmp_path / "b.png", wide).tolist() == expected


def test_a_palette_and_cmyk_are_rgb(tmp_path):
  palette = PIL.Image.fromarray(np.array([[1, 0]], np.uint8), "P")
  palette.putpalette([1, 2, 3, 4, 5, 6])
  palette.save(tmp_path / "a.gif")
  assert images.read(tmp_path / "a.gif").pixels.tolist() == [[[4, 5, 6], [1, 2, 3]]]
  PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "b.jpg")
  red = images.read(tmp_path / "b.jpg").pixels
  assert red.shape == (8, 8, 3) and red[..., 0].min() > 240 and red[..., 1:].max() < 30


def test_an_image_is_upright_whatever_exif_says(tmp_path):
  pixels = np.zeros((2, 3, 3), np.uint8)
  pixels[0, 0] = 255
  image = PIL.Image.fromarray(pixels)
  exif = image.getexif()
  exif[0x0112] = 6  # Shown turned to the right.
  image.save(tmp_path / "a.png", exif=exif)
  found = images.read(tmp_path / "a.png").pixels
  assert found.shape == (3, 2, 3) and found[0, 1].tolist() == [255] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_antialiased(channels):
  board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], channels, -1)
  small = images.resize(board, 8, 16)
  assert small.shape == (8, 16, channels) and small.dtype == np.uint8
  assert np.abs(small.astype(int) - 127).max() <= 2  # Without a filter it would be 0 or 255.
  assert images.resize(board, 64, 64) is board


def test_cover_keeps_proportions_and_the_middle():
  pixels = np.zeros((40, 80, 1), np.uint8)
  pixels[:, 20:60] = 200  # The middle square.
  found = images.cover(pixels, 10, 10)
  assert found.shape == (10, 10, 1) and found[:, 1:-1].min() > 190
  assert images.cover(RAMP[..., None], 3, 7).shape == (3, 7, 1)


def test_the_content_decides_and_not_the_name(tmp_path):
  PIL.Image.fromarray(RAMP).save(tmp_path / "a.png")
  (tmp_path / "a.png").rename(tmp_path / "a.jpg")
  np.testing.assert_array_equal(images.read(tmp_path / "a.jpg").pixels[..., 0], RAMP)


def jpeg() -> bytes:
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  PIL.Image.fromarray(noise).save(buffer, "JPEG")
  return buffer.getvalue()


@pytest.mark.parametrize("content, message", [
    (jpeg()[:2000], "a.png cannot be read as an image (.*): it is cut off, damaged or of an unknown format; copy"),
    (b"", "a.png is empty .0 bytes.: copy it again"),
    (b"some text", "a.png is of no known format of images, whatever its name says: convert it"),
    (b"RIFF\0\0\0\0WAVEfmt ", "a.png is a sound .WAV., whatever its name says, and not an image: name an image"),
    (b"\0\0\0\x18ftypisom", "a.png is a video .MP4., whatever its name says"),
    (None, "cannot read .*a.png .No such file or directory.: correct the path"),
])
def test_bad_files_are_one_line(tmp_path, content, message):
  if content is not None:
    (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    images.read(tmp_path / "a.png")
  assert "\n" not in str(error.value)


def test_only_known_formats_are_written(tmp_path):
  with pytest.raises(UserError, match="a.bmp: end the name in one of .png, .jpg"):
    images.write(Image(RAMP[..., None]), tmp_path / "a.bmp")
