"""What a person finds on a contact sheet."""

import numpy as np
import pytest

from gpt4x.evaluation.contact_sheet import Cell, contact_sheet, picture
from gpt4x.media.medium import Audio, Image, Video


def image(side=28, channels=1, seed=0):
  return Image(np.random.default_rng(seed).integers(0, 256, (side, side, channels)).astype(np.uint8))


def test_each_pixel_is_seen_and_captions_stand_below():
  small = image()
  sheet = contact_sheet([Cell("sneaker", [small]), Cell("", [small])]).pixels
  assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
  enlarged = small.pixels.repeat(3, 0).repeat(3, 1).repeat(3, 2)
  for left in (8, 8 + 96 + 8):
    np.testing.assert_array_equal(sheet[8:8 + 84, left:left + 84], enlarged)
  below = sheet[8 + 84:, :, 0]
  assert below[:, 8:104].min() < 100 and below[:, 112:].min() == 255, "the second has no caption"


def test_originals_stand_above_what_became_of_them():
  above, below = image(seed=1), image(seed=2)
  sheet = contact_sheet([Cell("20.1 dB", [above, below])]).pixels
  for top, one in ((8, above), (8 + 84 + 2, below)):
    np.testing.assert_array_equal(sheet[top:top + 84:3, 8:8 + 84:3, :1], one.pixels)


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (11, 11, 1), (12, 11, 2), (64, 11, 6)])
def test_the_grid(count, columns, rows):
  sheet = contact_sheet([Cell(str(i), [image(seed=i)]) for i in range(count)]).pixels
  assert sheet.shape[1] == 8 + columns * 104 and sheet.shape[0] == 8 + rows * (84 + 2 + 28 + 8)


def test_a_video_is_a_strip_from_its_first_frame_to_its_last():
  frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((20, 6, 5, 3), np.uint8)
  strip = picture(Video(frames, 8.0))
  assert strip.shape == (6, 8 * 6 - 1, 3)
  shown = strip[0, ::6, 0].tolist()
  assert shown[0] == 0 and shown[-1] == 19 and shown == sorted(shown) and len(set(shown)) == 8
  assert picture(Video(frames[:3], 8.0)).shape == (6, 3 * 6 - 1, 3)
  assert contact_sheet([Cell("a clip", [Video(np.repeat(frames, 60, 2), 8.0)])]).pixels.shape[1] <= 1300


def test_a_sound_is_bright_where_it_is_loud():
  time = np.arange(8000) / 8000
  low = Audio((20000 * np.sin(2 * np.pi * 300 * time) * (time < 0.5)).astype(np.int16), 8000)
  shown = picture(low)[..., 0].astype(int)
  loud, quiet = shown[:, :shown.shape[1] // 2 - 2], shown[:, shown.shape[1] // 2 + 2:]
  assert quiet.max() == 0 and loud.max() > 200
  assert loud.mean(1).argmax() > len(shown) * 0.6, "low pitches are below"


@pytest.mark.parametrize("caption", [
    "x" * 5000, "a word " * 400, "two\nlines\tand\x1b[31m", "ünïcödé ❤ 漢字 \U0001f600", "\ud800", " ", "ſ" * 3])
def test_any_caption(caption):
  plain, found = (contact_sheet([Cell(text, [image()])]).pixels for text in ("", caption))
  assert found.shape == plain.shape
  np.testing.assert_array_equal(found[:8 + 84], plain[:8 + 84])  # No caption covers a picture.
  assert (found[:, :8] == 255).all() and (found[:, -8:] == 255).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1000, 30, 3), (30, 3000, 1), (256, 256, 3), (97, 300, 3)])
def test_any_size(shape):
  sheet = contact_sheet([Cell("big", [Image(np.full(shape, 100, np.uint8))])]).pixels
  assert max(sheet.shape) < 1300 and sheet.shape[0] < 330 and (sheet == 100).any()
