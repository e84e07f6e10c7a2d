import os
import threading

import numpy as np
import pytest

from gpt4x import cli
from gpt4x.data import data_dir
from gpt4x.errors import UserError
from gpt4x.media import prepared_codes
from gpt4x.media.files.content import Unavailable
from gpt4x.media.medium import Image
from gpt4x.media.prepared_codes import Recipe


@pytest.fixture(autouse=True)
def _data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))


class Pixels:
  """A codec whose codes are the pixels; it counts what it encodes, and refuses an image of five rows."""

  def __init__(self, fingerprint="0123"):
    self.fingerprint, self.encoded, self.calls = fingerprint, 0, 0

  def encode_all(self, media):
    if any(len(one.pixels) == 5 for one in media):
      raise UserError("five rows: give another number")
    self.encoded, self.calls = self.encoded + len(media), self.calls + 1
    return [one.pixels.astype(np.int32) for one in media]


def read(path):
  if "bad" in path:
    raise UserError(f"{path} is damaged: copy it again")
  if "away" in path:
    raise Unavailable(f"{path} cannot be reached: wait")
  number = int(path.partition(".")[0])
  return Image(np.full((number, 2, 1), number, np.uint8))


def files(*names):
  return [(name, 10, 1) for name in names]


def recipe(codec, **settings):
  return Recipe("image", codec, settings, read)


def same(found, numbers):
  assert [one.shape for one in found] == [(number, 2, 1) for number in numbers]
  assert all((one == number).all() and one.dtype == np.int32 for one, number in zip(found, numbers))


def test_codes_are_made_once():
  codec, some = Pixels(), files("3.png", "1.png", "2.png")
  for _ in range(2):
    same(prepared_codes.of_files(some, recipe(codec)), [3, 1, 2])
  assert (codec.encoded, codec.calls) == (3, 1)


@pytest.mark.parametrize("others", [
    dict(files=[("3.png", 10, 2)]), dict(files=[("3.png", 11, 1)]), dict(codec=Pixels("4567")),
    dict(settings={"a": 1})])
def test_other_files_codecs_and_settings_make_others(others):
  codec = Pixels()
  prepared_codes.of_files(files("3.png"), recipe(codec))
  codec = others.get("codec", codec)
  codec.encoded = 0
  prepared_codes.of_files(others.get("files", files("3.png")), recipe(codec, **others.get("settings", {})))
  assert codec.encoded == 1


def test_what_was_made_before_a_kill_stays():
  """The second chunk dies while it is encoded, as by a kill: no folder of it is there afterwards."""
  codec = Pixels()
  prepared_codes.of_files(files("1.png"), recipe(codec))

  class Dies(Pixels):
    def encode_all(self, media):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepared_codes.of_files(files("2.png"), recipe(Dies()))
  codec.encoded = 0
  same(prepared_codes.of_files(files("1.png"), recipe(codec)), [1])
  same(prepared_codes.of_files(files("2.png"), recipe(codec)), [2])
  assert codec.encoded == 1


def test_damaged_codes_are_made_again():
  codec = Pixels()
  prepared_codes.of_files(files("1.png"), recipe(codec))
  path, = data_dir().glob("media/*/*/codes.npz")
  for damage in (b"", path.read_bytes()[:-30], path.read_bytes().replace(b"codes", b"cedes"), b"text"):
    path.write_bytes(damage)
    codec.encoded = 0
    same(prepared_codes.of_files(files("1.png"), recipe(codec)), [1])
    assert codec.encoded == 1


def test_what_is_wrong_with_a_file_is_kept_as_well(capfd):
  codec, some = Pixels(), files("1.png", "bad.png", "5.png", "2.png")
  for _ in range(2):
    found = prepared_codes.of_files(some, recipe(codec))
    same([found[0], found[3]], [1, 2])
    assert [str(one) for one in found[1:3]] == [
        "bad.png is damaged: copy it again", "5.png: five rows: give another number"]
  assert codec.encoded == 2  # The others are not encoded again.


def test_what_cannot_be_read_now_is_tried_again():
  codec = Pixels()
  for _ in range(2):
    found = prepared_codes.of_files(files("1.png", "away.png"), recipe(codec))
    assert isinstance(found[1], Unavailable)
  assert codec.encoded == 2


def test_many_large_files_are_encoded_some_at_a_time(monkeypatch):
  monkeypatch.setattr(prepared_codes, "_TOGETHER", 100)
  codec, numbers = Pixels(), [*range(6, 60)] * 2
  some = files(*(f"{number}.{i}.png" for i, number in enumerate(numbers)))
  same(prepared_codes.of_files(some, recipe(codec)), numbers)
  assert codec.calls > 20


def test_files_are_read_while_others_are_encoded(monkeypatch):
  """The first encoding waits until a later file is being read."""
  monkeypatch.setattr(prepared_codes, "_TOGETHER", 1)
  begun = threading.Event()

  class Waits(Pixels):
    def encode_all(self, media):
      assert begun.wait(60)
      return super().encode_all(media)

  def reads(path):
    if path.startswith("9"):
      begun.set()
    return read(path)

  found = prepared_codes.of_files(files("1.png", "2.png", "9.png"), Recipe("image", Waits(), {}, reads))
  same(found, [1, 2, 9])


def test_the_command_lists_and_removes_them(capsys):
  codec = Pixels()
  for name in ("1.png", "2.png"):
    prepared_codes.of_files(files(name), recipe(codec))
  folder, = data_dir().glob("media/*")
  assert cli.main(["cache"]) == 0
  _, line, total = capsys.readouterr().out.splitlines()
  assert line.split()[0] == folder.name and line.endswith("image files, by codec 0123")
  assert total.startswith("1 entries")
  os.utime(folder / "used", (0, 0))
  for path in folder.rglob("*"):
    os.utime(path, (0, 0))
  assert cli.main(["cache", "--remove=*", "--older_than=9"]) == 0 and not folder.exists()
  codec.encoded = 0
  same(prepared_codes.of_files(files("1.png"), recipe(codec)), [1])
  assert codec.encoded == 1


def test_use_counts_as_such(capsys):
  codec = Pixels()
  prepared_codes.of_files(files("1.png"), recipe(codec))
  folder, = data_dir().glob("media/*")
  for path in [*folder.rglob("*"), folder]:
    os.utime(path, (0, 0))
  prepared_codes.of_files(files("1.png"), recipe(codec))
  assert cli.main(["cache", "--remove=*", "--older_than=9"]) == 1 and folder.exists()
