import os

import pytest

from gpt4x import storage
from gpt4x.errors import UserError


def test_a_file_is_replaced_whole(tmp_path):
  for content in (b"one", b"two"):
    storage.write(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content
  assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/null", path)],
                         ids=["directory", "pipe", "device"])
def test_nothing_but_a_file_is_replaced(tmp_path, make):
  """As root, a rename would put a file in the place of /dev/null."""
  make(tmp_path / "name")
  with pytest.raises(UserError, match="name is there already and no regular file"):
    storage.write(tmp_path / "name", b"content")
  assert os.listdir(tmp_path) == ["name"] and not (tmp_path / "name").is_file()
