"""Files of tensors: read where they lie, and one line about a file that is damaged, cut off or of another kind."""

import json
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from gpt4x.errors import UserError
from gpt4x.interop import json_files, torch_files
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


KINDS = {"zip": hugging_face.torch_zip, "legacy": hugging_face.torch_legacy}


def replaced(path, file_format, old, new):
  """Changes the objects of a file of torch.save."""
  change = lambda content: content.replace(old, new, 1)
  assert old in path.read_bytes()
  if file_format == "zip":
    repack(path, lambda name, content: change(content) if name.endswith("data.pkl") else content)
  else:
    path.write_bytes(change(path.read_bytes()))


SIZE, SHAPE = b"K\x0f", b"K\x05K\x03"  # Of a storage of 15 numbers, and of a tensor of 5 by 3.


@pytest.mark.parametrize("file_format", KINDS)
@pytest.mark.parametrize("old, new, words", [
    (SIZE, b"J\xff\xff\xff\xff", "has no -1 float32 in its storage 0"),
    (SIZE, b"J\xf0\xff\xff\xff", "has no -16 float32 in its storage 0"),  # To this file's start again, for ever.
    (SIZE, b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "has no 9223372036854775807 float32"),
    (SIZE, b"\x88", "has no True float32"), (SIZE, b"N", "has no None float32"),
    (SIZE, b"G" + bytes(8), "has no 0.0 float32"),
    (SHAPE, b"J\xff\xff\xff\xffK\x03", r"a tensor \[-1, 3\] that does not lie inside"),
    (SHAPE, b"\x88K\x03", r"a tensor \[True, 3\]"), (SHAPE, b"NK\x03", r"a tensor \[None, 3\]"),
    (SHAPE, b"](Ne0" + SHAPE[:2] + b"]", r"a tensor \[5, \[\]\]"),
    (SHAPE, b"\x8a\x05" + b"\xff" * 4 + b"\x7fK\x00", "a tensor"),
    (b"storage", b"module!", "no plain storage"),
    (b"ctorch\nFloatStorage\n", b"Vtorch.FloatStorage\n", "not of numbers"),
    (b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", "not of numbers"),
], ids=str)
def test_sizes_that_are_none(file_format, old, new, words, tmp_path):
  path = tmp_path / "pytorch_model.bin"
  KINDS[file_format](path, {"t": np.arange(15, dtype=np.float32).reshape(5, 3)})
  replaced(path, file_format, old, new)
  with pytest.raises(UserError, match=f"{path}: .*{words}") as error:
    torch_files.load(path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("file_format", KINDS)
@pytest.mark.parametrize("field", ["offset", "shape", "strides", "storage"])
def test_a_pickle_sets_no_fields_of_tensors(file_format, field, tmp_path):
  path = tmp_path / "pytorch_model.bin"
  KINDS[file_format](path, {"t": np.arange(15, dtype=np.float32)})
  content = path.read_bytes()
  call = content.rindex(b"R", 0, content.index(b"_metadata"))  # The one that makes the tensor.
  end = content[call:content.index(b"_metadata")]
  replaced(path, file_format, end, b"R}V" + field.encode() + b"\nJ\x00\xff\xff\xffsb" + end[1:])
  with pytest.raises(UserError, match=f"{path}: sets fields of what has none"):
    torch_files.load(path)


@pytest.mark.parametrize("file_format", KINDS)
def test_views_of_every_kind(file_format, tmp_path):
  """The right values of transposed, empty, scalar and repeated views of torch, and none of more than the file has."""
  path, array = tmp_path / "pytorch_model.bin", np.arange(15, dtype=np.float32).reshape(5, 3)
  tensors = {"t": array, "empty": np.empty((0, 7), np.float32), "scalar": np.array(2, np.float32)}
  KINDS[file_format](path, tensors)
  for name, tensor in torch_files.load(path).items():
    np.testing.assert_array_equal(tensor.array(), tensors[name])
  KINDS[file_format](path, {"t": array})
  replaced(path, file_format, SHAPE, SHAPE[2:] + SHAPE[:2])
  replaced(path, file_format, b"K\x03K\x01", b"K\x01K\x03")
  np.testing.assert_array_equal(torch_files.load(path)["t"].array(), array.T)
  replaced(path, file_format, SHAPE[2:] + SHAPE[:2], b"K\x04K\x05")
  replaced(path, file_format, b"K\x01K\x03", b"K\x00K\x00")
  np.testing.assert_array_equal(torch_files.load(path)["t"].array(), np.zeros((4, 5)))
  replaced(path, file_format, b"K\x04K\x05", b"M\xff\x01M\xff\x01")  # 511 by 511.
  with pytest.raises(UserError, match=r"a tensor \[511, 511\] that does not lie inside"):
    torch_files.load(path)


def test_legacy_keys(tmp_path):
  """Each storage once."""
  path = tmp_path / "pytorch_model.bin"
  hugging_face.torch_legacy(path, {"t": np.ones(15, np.float32), "u": np.ones(4, np.float32)})
  for keys in (["0", "0"], ["0"], ["1", "2"], {"0": 1}, "01", [0, 1]):
    content = path.read_bytes()
    changed = content.replace(pickle.dumps(["0", "1"], 2), pickle.dumps(keys, 2))
    assert changed != content
    (tmp_path / "changed").write_bytes(changed)
    with pytest.raises(UserError, match="does not list the storages that its tensors are in"):
      torch_files.load(tmp_path / "changed")


def test_archives_that_are_not_what_they_say(tmp_path):
  path, array = tmp_path / "pytorch_model.bin", np.arange(15, dtype=np.float32)
  hugging_face.torch_zip(path, {"t": array})
  good = path.read_bytes()
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr("other/data.pkl", b"N.")
  with pytest.raises(UserError, match="has its entry data.pkl twice"):
    torch_files.load(path)
  path.write_bytes(good.replace(b"FloatStorage", b"HalfStorage\n"))
  with pytest.raises(UserError, match="its entry data.pkl was altered"):
    torch_files.load(path)
  sizes = struct.pack("<LL", 60, 60)
  for size in (2**31 - 1, 2**32 - 2):  # Of data/0, in the archive's directory.
    place = good.rindex(sizes)
    path.write_bytes(good[:place] + struct.pack("<LL", size, size) + good[place + 8:])
    with pytest.raises(UserError, match="has no 15 float32 in its storage 0"):
      torch_files.load(path)


@pytest.mark.parametrize("header, words", [
    ({"t": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 60]}}, "not a whole"),
    ({"t": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 60]}}, "not a whole"),
    ({"t": {"dtype": "F32", "shape": [-15], "data_offsets": [0, 60]}}, "not a whole"),
    ({"t": {"dtype": "F32", "shape": [15], "data_offsets": [4, 64]}}, "not a whole"),
    ({"t": {"dtype": "F32", "shape": [15], "data_offsets": [60, 0]}}, "not a whole"),
    ({"t": {"dtype": "F31", "shape": [15], "data_offsets": [0, 60]}}, "not a whole"),
    ({"t": {"dtype": "F32", "shape": [15], "data_offsets": [0, 60]},
      "u": {"dtype": "F32", "shape": [15], "data_offsets": [0, 60]}}, "not a whole"),
    ({"t": {"dtype": "I32", "shape": [15], "data_offsets": [0, 60]}}, "the tensor t is of type I32"),
    ({"t\nu\x1b[31m": {"dtype": "F32", "shape": [15], "data_offsets": [0, 60]}}, "is no name of a tensor"),
    ({"t" * 501: {"dtype": "F32", "shape": [15], "data_offsets": [0, 60]}}, "is no name of a tensor"),
    (b"[" * 100_000, "not a whole"), (b"\xff" * 8, "not a whole")])
def test_headers_of_safetensors(header, words, tmp_path):
  content = header if isinstance(header, bytes) else json.dumps(header).encode()
  path = tmp_path / "model.safetensors"
  path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(60))
  with pytest.raises(UserError, match=f"^{path}.*{words}") as error:
    open_directory(tmp_path)
  assert "\n" not in str(error.value) and len(str(error.value)) < 600
  path.write_bytes(struct.pack("<Q", 2**62) + content + bytes(60))
  with pytest.raises(UserError, match=f"^{path} is not a whole safetensors file"):
    open_directory(tmp_path)


@pytest.mark.parametrize("shard",
                         ["", ".", "..", "../model.safetensors", "/etc/passwd", "a/b", "b\n", "b\0", "\ud800", "folder",
                                   "x" * 300, 1, None, ["b"]])
def test_an_index_names_files_beside_it(shard, tmp_path):
  (tmp_path / "folder").mkdir()
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"t": shard}}))
  with pytest.raises(UserError, match=f"^{tmp_path}/.*copy it") as error:
    open_directory(tmp_path)
  assert "\n" not in str(error.value)


def test_the_index_says_which_file_a_tensor_is_in(tmp_path):
  """A shard may have more than its own, and lie elsewhere."""
  (tmp_path / "far").mkdir()
  for name, value in (("far/a", 1), ("b", 2)):
    safetensors.numpy.save_file({"t": np.full(3, value, np.float32)}, tmp_path / name)
  (tmp_path / "a").symlink_to("far/a")
  safetensors.numpy.save_file({"u": np.zeros(2, np.float32), "t": np.full(3, 2, np.float32)}, tmp_path / "b")
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": "a", "u": "b"}}))
  file = open_directory(tmp_path)
  np.testing.assert_array_equal(file.read("t"), np.ones(3))
  assert file.shapes == {"t": (3,), "u": (2,)} and file.size == sum(os.path.getsize(tmp_path / name) for name in "ab")


@pytest.mark.parametrize("content, words", [
    (b"{", "Expecting property name"), (b"", "Expecting value"), (b"[]", "not an object"), (b"\xff{}", "utf-8"),
    ("\ufeff{}".encode(), "BOM"), (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has c twice"), (b'{"a": NaN}', "it has NaN"),
    (b'{"a": [-Infinity]}', "it has -Infinity"), (b'{"a": 1e999}', "it has 1e999"), (b'{"a": 1} {}', "Extra data"),
    (b'{"a": ' + b"9" * 5000 + b"}", "integer string"), (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "nested too deeply"),
    (b'{"a": "' + b" " * 2**26 + b'"}', "more than 67,108,864"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_files_that_are_no_json(content, words, tmp_path):
  path = tmp_path / "config.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=rf"^{path} is not a whole JSON file \(.*{words}.*: copy it again$") as error:
    json_files.read(path)
  assert "\n" not in str(error.value)


def test_files_that_are_json(tmp_path):
  value = {"a": [1, -2.5, 1e300, True, None, "ü"], "b": {}}
  (tmp_path / "config.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
  assert json_files.read(tmp_path / "config.json") == value
  for path in (tmp_path, tmp_path / "none", tmp_path / "config.json" / "under"):
    with pytest.raises(UserError, match="is missing: copy it there"):
      json_files.read(pathlib.Path(path))
