"""Files of tensors: read where they lie, and one line about a file that is damaged, cut off or of another kind."""

import struct
import zipfile

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.interop import torch_files
from gpt4x.interop.tensor_files import open_directory
from tests.interop import hugging_face

FORMATS = ("safetensors", "zip", "legacy")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_was_cut_off(file_format, tmp_path):
  tensors = {name: np.ones((40, 50), np.float32) for name in "abc"}
  directory = hugging_face.write(tmp_path, {}, tensors, file_format)
  assert open_directory(directory).read("b").shape == (40, 50)
  path, = set(directory.iterdir()) - {directory / "config.json"}
  content = path.read_bytes()
  for size in (0, 7, 40, 500, len(content) // 2 + 1000, len(content) - 1):
    path.write_bytes(content[:size])
    with pytest.raises(UserError, match=rf"{path}( is not a whole|: has no) .*: copy it again$") as error:
      open_directory(directory)
    assert "\n" not in str(error.value)


def repack(path, change, compression=zipfile.ZIP_STORED):
  """Writes a zip archive anew, each entry as `change(name, content)` has it."""
  with zipfile.ZipFile(path) as archive:
    entries = [(name, change(name, archive.read(name))) for name in archive.namelist()]
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, content in entries:
      archive.writestr(name, content)


@pytest.mark.parametrize("change, compression, words", [
    (lambda name, content: b"big" if "byteorder" in name else content, zipfile.ZIP_STORED, "is not little-endian"),
    (lambda name, content: content, zipfile.ZIP_DEFLATED, "has its entry byteorder compressed"),
    (lambda name, content: content[:-4] if "data/0" in name else content, zipfile.ZIP_STORED,
     "has no 15 float32 in its storage 0: copy it again"),
], ids=["byte order", "compressed", "shorter"])
def test_an_archive_of_another_kind(change, compression, words, tmp_path):
  path = tmp_path / "pytorch_model.bin"
  hugging_face.torch_zip(path, {"t": np.arange(15, dtype=np.float32)})
  repack(path, change, compression)
  with pytest.raises(UserError, match=words):
    torch_files.load(path)


def test_a_storage_of_another_size(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  hugging_face.torch_legacy(path, {"t": np.arange(15, dtype=np.float32)})
  path.write_bytes(path.read_bytes().replace(struct.pack("<q", 15), struct.pack("<q", 14)))
  with pytest.raises(UserError, match="has no 15 float32 in its storage 0: copy it again"):
    torch_files.load(path)


def test_damaged_objects(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  hugging_face.torch_zip(path, {"t": np.arange(15, dtype=np.float32)})
  content = path.read_bytes()
  path.write_bytes(content.replace(b"FloatStorage", b"ByteStorage\n"))
  with pytest.raises(UserError, match="is not a whole file of torch.save .*: copy it again$"):
    torch_files.load(path)


class Evil:

  def __reduce__(self):
    return print, ("ran",)


@pytest.mark.parametrize("file_format", FORMATS[1:])
def test_a_pickle_runs_nothing(file_format, tmp_path, capsys):
  path = hugging_face.write(tmp_path, {}, {"evil": Evil()}, file_format) / "pytorch_model.bin"
  with pytest.raises(UserError, match=r"names \w+.print, which is neither"):
    torch_files.load(path)
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("old, new", [(b"K\x05K\x03", b"K\x06K\x03"), (b"K\x03K\x01", b"K\x04K\x01"),
                                      (b"K\x00K\x05", b"K\x01K\x05")], ids=["shape", "strides", "offset"])
def test_a_tensor_outside_its_storage(old, new, tmp_path):
  """A pickle that was tampered with does not read memory beyond the file."""
  path, array = tmp_path / "pytorch_model.bin", np.arange(15, dtype=np.float32).reshape(5, 3)
  hugging_face.torch_zip(path, {"t": array})
  np.testing.assert_array_equal(torch_files.load(path)["t"].array(), array)
  repack(path, lambda _, content: content.replace(old, new))
  with pytest.raises(UserError, match="does not lie inside its storage 0"):
    torch_files.load(path)
