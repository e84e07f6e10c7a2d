"""Media in a bucket are those of the same files on this machine."""

import gin
import pytest
import seqio

from gpt4x.data import data_dir
from gpt4x.errors import UserError
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Video
import gpt4x.tasks  # noqa: F401  Registers them.
from tests.buckets import put
from tests.media.tiny_files import grey_frames, json_lines, pngs, tone


def test_json_lines_and_media_may_be_urls(gs, tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  pngs(tmp_path / "c", 3)
  json_lines(tmp_path / "c" / "a.jsonl", [{"image": f"{k}.png", "text": f"{k}"} for k in range(3)])
  json_lines(tmp_path / "c" / "v.jsonl", [{"text": "v"}])
  for path in (tmp_path / "c").iterdir():
    put(f"{gs}/c/{path.name}", path.read_bytes())
  found = []
  for where in (tmp_path, gs):
    gin.parse_config([f"LocalMedia.files = '{where}/c/a.jsonl'", f"LocalMedia.validation_files = '{where}/c/v.jsonl'",
                      "MediaTokens.image = 'grey'"])
    dataset = seqio.get_mixture_or_task("local_media").get_dataset(None, "train", shuffle=False)
    found.append([one["targets"].tolist() for one in dataset.as_numpy_iterator()])
  assert found[0] == found[1] and len(found[0]) == 3
  assert len(list(data_dir().glob("media/*/*/codes.npz"))) == 2


def test_files_are_read_and_written_there(gs):
  video = Video(grey_frames(3), 5)
  videos.write(video, f"{gs}/a/b.gif")
  assert (videos.read(f"{gs}/a/b.gif").frames == video.frames).all()
  assert (images.read(f"{gs}/a/b.gif").pixels == video.frames[0]).all()
  sounds.write(Audio(tone(440), 8000), f"{gs}/a/b.wav")
  assert (sounds.read(f"{gs}/a/b.wav").samples == tone(440)).all()
  with pytest.raises(UserError, match=f"cannot read {gs}/a/none.png .*: correct the path"):
    images.read(f"{gs}/a/none.png")
