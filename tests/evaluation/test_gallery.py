"""What an evaluation has to show, as files that can be read back."""

import numpy as np
import pytest

from gpt4x.evaluation import gallery
from gpt4x.evaluation.contact_sheet import Cell, contact_sheet
from gpt4x.evaluation.gallery import Gallery
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image, Video

RNG = np.random.default_rng(0)
SOUND = Audio(RNG.integers(-9000, 9000, 800).astype(np.int16), 8000)
OTHER = Audio(RNG.integers(-9000, 9000, 900).astype(np.int16), 8000)
IMAGE = Image(RNG.integers(0, 256, (8, 8, 1)).astype(np.uint8))
VIDEO = Video(RNG.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8), 4.0, SOUND)


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_pictures_are_on_the_sheet(tmp_path):
  Gallery([Cell("a shoe", [IMAGE])] * 3).write(tmp_path / "samples")
  assert names(tmp_path / "samples") == ["contact_sheet.png"]
  shown = images.read(str(tmp_path / "samples" / "contact_sheet.png")).pixels
  np.testing.assert_array_equal(shown, contact_sheet([Cell("a shoe", [IMAGE])] * 3).pixels)


def test_sounds_can_be_heard(tmp_path):
  made = Gallery([Cell("seven", [SOUND]), Cell("two", [OTHER])])
  made.write(tmp_path)
  assert names(tmp_path) == ["000.wav", "001.wav", "contact_sheet.png"]
  heard = sounds.read(str(tmp_path / "001.wav"))
  assert heard.rate == 8000 and np.array_equal(heard.samples, OTHER.samples)
  assert made.sounds == {"000": SOUND, "001": OTHER}


def test_originals_lie_beside(tmp_path):
  made = Gallery([Cell("3.0 dB", [SOUND, OTHER])])
  made.write(tmp_path)
  assert names(tmp_path) == ["000.wav", "000_original.wav", "contact_sheet.png"]
  assert np.array_equal(sounds.read(str(tmp_path / "000_original.wav")).samples, SOUND.samples)
  assert made.sounds == {"000": OTHER}


@pytest.mark.parametrize("has_av", [True, False])
def test_videos_can_be_played(tmp_path, monkeypatch, has_av):
  """As MP4, or as a GIF with its sound beside it where nothing writes MP4."""
  if has_av:
    pytest.importorskip("av")
  find = gallery.importlib.util.find_spec
  monkeypatch.setattr(gallery.importlib.util, "find_spec", lambda name: find(name) if name != "av" else has_av or None)
  Gallery([Cell("", [IMAGE]), Cell("it moves", [VIDEO])]).write(tmp_path)
  assert names(tmp_path) == (["001.mp4"] if has_av else ["001.gif", "001.wav"]) + ["contact_sheet.png"]
  assert len(videos.read(str(tmp_path / names(tmp_path)[0])).frames) == 3


def test_only_so_many_become_files(tmp_path):
  Gallery([Cell(str(number), [SOUND]) for number in range(80)]).write(tmp_path)
  assert len(names(tmp_path)) == 17 and "015.wav" in names(tmp_path)


def test_nothing_is_no_file(tmp_path):
  Gallery([]).write(tmp_path / "samples")
  assert not (tmp_path / "samples").exists() and Gallery([]).sheet is None


def test_the_newest_sheet(tmp_path):
  assert gallery.newest_sheet(str(tmp_path)) is None
  for step in (9, 100, 20):
    folder = gallery.place(str(tmp_path), step)
    Gallery([Cell(str(step), [IMAGE])]).write(folder)
  (tmp_path / "samples" / "step_200").mkdir()  # Without a sheet.
  (tmp_path / "samples" / "step_999x").write_text("no folder")
  step, content = gallery.newest_sheet(str(tmp_path))
  assert step == 100 and content == (tmp_path / "samples" / "step_100" / "contact_sheet.png").read_bytes()
