"""What a bucket has in common with a directory, and what it does in its own way."""

import os
import subprocess
import sys

import pytest

from gpt4x import storage
from gpt4x.errors import UserError


def test_a_file_is_written_and_read(place):
  assert storage.read(place / "file") is None
  for content in (b"one", b"", b"three"):
    storage.write(place / "file", content)
    assert storage.read(place / "file") == (place / "file").read_bytes() == content
  storage.write(place / "deep" / "er", b"1")
  assert storage.files_below(place) == [place / "deep" / "er", place / "file"]
  assert [path.name for path in place.iterdir()] == ["deep", "file"]


def test_a_large_file_is_written_whole(place, tmp_path):
  """Above 50 MB the libraries upload in parts."""
  content = os.urandom(1 << 20) * 51
  (tmp_path / "file").write_bytes(content)
  storage.upload(tmp_path, place)
  assert storage.read(place / "file") == content


def test_what_is_replaced_while_it_is_read_is_read_whole(place, monkeypatch):
  kind = type(storage.file_system(place))
  info = kind._info

  async def info_of_the_one_before(self, path, **options):
    found = await info(self, path, **options)
    await self._pipe_file(path, b"another")
    return found

  storage.write(place / "file", b"one")
  monkeypatch.setattr(kind, "_info", info_of_the_one_before)
  assert storage.read(place / "file") in (b"one", b"another")


def test_a_process_sees_what_others_wrote_after_it_had_looked(place):
  """Even one that inherits what the process that started it has set: this one has."""
  code = ("import sys; from gpt4x import storage; place = storage.path(sys.argv[1]); storage.files_below(place);"
          " storage.read(place / 'new'); print('looked', flush=True); input(); print(storage.read(place / 'new'))")
  storage.write(place / "old", b"one")
  with subprocess.Popen([sys.executable, "-c", code, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        text=True) as process:
    assert process.stdout.readline() == "looked\n"
    storage.write(place / "new", b"two")
    assert process.communicate("\n")[0] == "b'two'\n"


def test_one_of_two_creates(place):
  assert storage.create_exclusively(place / "lock", b"one")
  assert not storage.create_exclusively(place / "lock", b"two")
  assert storage.create_exclusively(place / "lock", b"one")  # As if the answer to the first request had been lost.
  assert storage.read(place / "lock") == b"one"


def test_what_was_replaced_meanwhile_is_not_replaced_again(place, monkeypatch):
  storage.write(place / "lock", b"one")
  assert storage.replace(place / "lock", b"one", b"two")
  assert not storage.replace(place / "lock", b"one", b"three")
  assert not storage.replace(place / "nowhere", b"one", b"three")
  put = storage._put_over

  def put_late(path, version, content):
    storage.write(path, b"another's")  # Between our reading and our writing.
    put(path, version, content)

  monkeypatch.setattr(storage, "_put_over", put_late)
  assert not storage.replace(place / "lock", b"two", b"three")
  assert storage.read(place / "lock") == b"another's"


def test_another_process_sees_what_is_there_now(place):
  storage.write(place / "one", b"")
  assert [path.name for path in place.iterdir()] == ["one"]
  write = "from gpt4x import storage; import sys; storage.write(storage.path(sys.argv[1]), b'')"
  subprocess.run([sys.executable, "-c", write, str(place / "two")], check=True)
  assert [path.name for path in place.iterdir()] == ["one", "two"]
  assert (place / "two").exists()


def test_files_are_brought_here_for_what_reads_no_urls(place, tmp_path):
  for name in ("a.txt", "b.bin"):
    storage.write(place / name, name.encode())
  with storage.local_copy(place, "*.txt") as copy:
    assert {path.name: path.read_text() for path in copy.iterdir()} == {"a.txt": "a.txt"}
  with storage.local_copy(tmp_path) as copy:
    assert copy == tmp_path
  with storage.new_file(place / "made") as file:
    file.write_bytes(b"made")
  assert storage.read(place / "made") == b"made"


def test_a_missing_bucket_is_one_line(store):
  for act in (lambda path: storage.write(path, b""), lambda path: storage.create_exclusively(path, b"")):
    with pytest.raises(UserError, match=f"there is no bucket {store}://nowhere, .*make it first, or correct the URL"):
      act(storage.path(f"{store}://nowhere/run/train.lock"))


def test_epath_goes_the_same_way_though_tensorflow_is_there(place):
  import etils.epath
  from etils.epath import backend
  import tensorflow  # noqa: F401
  assert etils.epath.Path(str(place))._backend is backend.fsspec_backend
