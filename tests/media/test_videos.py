import io
import struct
import sys

import numpy as np
import PIL.Image
import pytest

from gpt4x.errors import UserError
from gpt4x.media.files import videos
from gpt4x.media.medium import Audio, Video
from tests.media.tiny_files import frequency, grey_frames, mp4, tone


def greys(video: Video) -> list[int]:
  return video.frames[..., 0].mean((1, 2)).round().astype(int).tolist()


def near(found: list[int], frames: np.ndarray) -> None:
  expected = frames[:, 0, 0, 0].tolist()
  assert len(found) == len(expected) and np.abs(np.subtract(found, expected)).max() <= 3, (found, expected)


@pytest.fixture(scope="module", name="clip")
def _clip(tmp_path_factory):
  """Twenty frames, 25 a second, each brighter than the last; B-frames let the decoder hold some back."""
  path = tmp_path_factory.mktemp("clip") / "a.mp4"
  mp4(path, [grey_frames(20)], options={"bf": "3", "g": "20"})
  return path


def test_every_frame_comes_once_the_last_included(clip):
  found = videos.read(clip)
  near(greys(found), grey_frames(20))
  assert found.fps == pytest.approx(25) and found.frames.shape == (20, 32, 32, 3) and found.frames.dtype == np.uint8
  assert found.sound is None


def test_threads_change_nothing(clip):
  one, many = videos.read(clip, threads=False), videos.read(clip, threads=True)
  np.testing.assert_array_equal(one.frames, many.frames)


@pytest.mark.parametrize("fps, places", [
    (25, range(20)), (12.5, range(0, 20, 2)), (5, range(0, 20, 5)), (50, np.repeat(range(20), 2)),
    (10, [0, 2, 5, 7, 10, 12, 15, 17])])
def test_frames_are_chosen_by_time(clip, fps, places):
  found = videos.read(clip, fps=fps)
  near(greys(found), grey_frames(20)[list(places)])
  assert found.fps == fps


def test_seconds_are_the_first(clip):
  near(greys(videos.read(clip, seconds=0.2)), grey_frames(20)[:5])
  near(greys(videos.read(clip, seconds=0.2, fps=12.5)), grey_frames(20)[[0, 2, 4]])
  assert len(videos.read(clip, seconds=0.001).frames) == 1


def test_frames_that_stand_longer_are_shown_longer(tmp_path):
  mp4(tmp_path / "a.mp4", [grey_frames(4)], pts=[0, 100, 400, 500])
  near(greys(videos.read(tmp_path / "a.mp4")), grey_frames(4))
  found = greys(videos.read(tmp_path / "a.mp4", fps=10))
  near(found[:6], grey_frames(4)[[0, 1, 1, 1, 2, 3]])
  assert len(found) in (6, 7)  # Nothing in the file says how long the last one stands.


def test_one_of_several_streams(tmp_path):
  small, large = grey_frames(5), grey_frames(7, 48)
  mp4(tmp_path / "a.mp4", [small, large])
  near(greys(videos.read(tmp_path / "a.mp4")), small)
  found = videos.read(tmp_path / "a.mp4", stream=1)
  near(greys(found), large)
  assert found.frames.shape[1:] == (48, 48, 3)
  with pytest.raises(UserError, match=r"a.mp4 has 2 video stream\(s\), and 2 is none of them: count from 0"):
    videos.read(tmp_path / "a.mp4", stream=2)


def test_what_is_made_of_frames_is_made_of_those_kept(clip):
  seen = []
  found = videos.read(clip, fps=5, change=lambda pixels: seen.append(1) or pixels[:8, :8])
  assert found.frames.shape == (4, 8, 8, 3) and len(seen) == 4


@pytest.mark.parametrize("size", [(32, 48), (27, 33)])
def test_mp4_is_written_with_its_sound(tmp_path, size):
  frames = np.stack([np.full((*size, 3), 40 * k + 20, np.uint8) for k in range(5)])
  videos.write(Video(frames, 12.5, Audio(tone(440, 8000, 3200), 8000)), tmp_path / "deep" / "a.mp4")
  found = videos.read(tmp_path / "deep" / "a.mp4")
  near(greys(found), frames)
  assert found.frames.shape == frames.shape and found.fps == pytest.approx(12.5)
  assert found.sound.rate == 8000 and abs(len(found.sound.samples) - 3200) < 2100  # AAC has blocks of 1,024.
  assert frequency(found.sound.samples[500:3000], 8000) == pytest.approx(440, abs=5)
  alone = videos.read_sound(tmp_path / "deep" / "a.mp4")
  np.testing.assert_array_equal(alone.samples, found.sound.samples)


def test_grey_frames_are_written_too(tmp_path):
  videos.write(Video(grey_frames(3)[..., :1], 5), tmp_path / "a.mp4")
  near(greys(videos.read(tmp_path / "a.mp4")), grey_frames(3))


@pytest.mark.parametrize("fps", [10, 12, 30])
def test_gif_keeps_frames_and_times(tmp_path, fps):
  frames = grey_frames(12)
  frames[5] = frames[4]  # Written as one that stands twice as long.
  videos.write(Video(frames, fps), tmp_path / "a.gif")
  found = videos.read(tmp_path / "a.gif", fps=fps)
  np.testing.assert_array_equal(found.frames, frames)
  assert PIL.Image.open(tmp_path / "a.gif").n_frames == 11


def test_gif_needs_no_extra_and_mp4_says_so(tmp_path, clip, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  videos.write(Video(grey_frames(2), 5), tmp_path / "a.gif")
  assert videos.read(tmp_path / "a.gif").fps == 5
  for call in (lambda: videos.read(clip), lambda: videos.write(Video(grey_frames(2), 5), tmp_path / "a.mp4")):
    with pytest.raises(UserError, match="a.mp4: MP4 needs av, which is not installed: pip install 'gpt4x.media.'"):
      call()


def test_webm(tmp_path):
  videos.write(Video(grey_frames(6), 25, Audio(tone(440, 8000, 2000), 8000)), tmp_path / "a.webm")
  found = videos.read(tmp_path / "a.webm", fps=25)
  near(greys(found), grey_frames(6))
  assert frequency(found.sound.samples, found.sound.rate) == pytest.approx(440, abs=10)


def test_a_video_is_upright_as_a_phone_held_it(tmp_path):
  """The matrix in the header of the track says that it is shown turned to the right."""
  frames = grey_frames(3, 48)[:, :32]
  frames[:, :, :24] = 250  # The left half, which is the upper one when shown.
  mp4(tmp_path / "a.mp4", [frames])
  content = bytearray((tmp_path / "a.mp4").read_bytes())
  place = content.index(b"tkhd") + 44
  content[place:place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
  (tmp_path / "a.mp4").write_bytes(content)
  found = videos.read(tmp_path / "a.mp4").frames
  assert found.shape == (3, 48, 32, 3) and found[:, :20].min() > 230 and found[:, 28:].max() < 230


def truncated(path):
  mp4(path, [grey_frames(5)])
  path.write_bytes(path.read_bytes()[:600])


def no_frames(path):
  mp4(path, [grey_frames(5)[:0]], sound=tone(440))


def cut_before_its_frames(path):
  """As a recording that was broken off at once: the header tells of a video, and nothing follows."""
  import av
  buffer = io.BytesIO()
  with av.open(buffer, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width = stream.height = 32
    for pixels in grey_frames(3):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode(None))
  path.write_bytes(buffer.getvalue()[:buffer.getvalue().index(b"moof") - 4])


def only_sound(path):
  mp4(path, [], sound=tone(440))


@pytest.mark.parametrize("write, message", [
    (truncated, "a.mp4 cannot be read as a video"), (only_sound, "a.mp4 has no pictures, only sound: give it as audio"),
    (no_frames, "a.mp4 has no pictures, only sound"),
    (cut_before_its_frames, r"a.mp4 cannot be read as a video \(it has no frames\): it is cut off, .*; copy it again"),
    (lambda path: path.write_bytes(b""), "a.mp4 is empty .0 bytes."),
    (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "a.mp4 is an image .PNG., whatever its name says"),
    (lambda path: path.write_bytes(b"text"), "a.mp4 cannot be read as a video"),
])
def test_bad_files_are_one_line(tmp_path, write, message):
  write(tmp_path / "a.mp4")
  with pytest.raises(UserError, match=message) as error:
    videos.read(tmp_path / "a.mp4")
  assert "\n" not in str(error.value)


def test_only_known_formats_are_written(tmp_path):
  with pytest.raises(UserError, match="a.avi: end the name in .gif, .mp4 or .webm"):
    videos.write(Video(grey_frames(2), 5), tmp_path / "a.avi")
