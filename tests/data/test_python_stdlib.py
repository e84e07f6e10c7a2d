import os
import sysconfig

import pytest

from gpt4x.data import python_stdlib
from gpt4x.errors import UserError

FILES = {f"module_{i}.py": f"x = {i}\n" for i in range(400)} | {
    "LICENSE.txt": "free\r\n", "email/architecture.rst": "Über\n", "pkg/deep/er.py": "\ttab\n",
    "pydoc_data/topics.py": r"topics = {'if': 'The \"if\" statement\n', 'assert': 'Assertions\n'}"}
TOPICS = {"pydoc_data/topics.py:if": 'The "if" statement\n', "pydoc_data/topics.py:assert": "Assertions\n"}
DOCUMENTS = {name: text for name, text in FILES.items() if name != "pydoc_data/topics.py"} | TOPICS
LEFT_OUT = {"dist-packages/json/tool.py": "x", "site-packages/numpy.py": "x", "__pycache__/os.py": "x",
            "_sysconfigdata_linux.py": "x", "config-3.11-linux/config.py": "x", "lib2to3/g.pickle": "x", "empty.py": ""}


@pytest.fixture(name="library")
def _library(tmp_path, monkeypatch):
  """A small standard library, and an empty data directory."""
  root = tmp_path / "tests" / "lib"  # Folders above the root must not count as folders to leave out.
  for name, text in (FILES | LEFT_OUT).items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode())
  (root / "latin.py").write_bytes("# -*- coding: latin-1 -*-\n# é".encode("latin-1"))
  config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
  monkeypatch.setattr(config, "root", root)
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  return root


def _read(split):
  dataset = python_stdlib.PythonStdlibSource().get_dataset(split, shuffle=False)
  return {example["name"].decode(): example["text"].decode() for example in dataset.as_numpy_iterator()}


def test_documents_are_the_library_s_own_text(library):
  assert dict(python_stdlib.documents(library)) == DOCUMENTS


def test_running_python():
  names = dict(python_stdlib.documents(python_stdlib.pathlib.Path(sysconfig.get_path("stdlib"))))
  assert {"os.py", "json/decoder.py", "pydoc_data/topics.py:if"} <= names.keys()
  assert len(names) > 400 and sum(map(len, names.values())) > 5_000_000
  assert not [name for name in names if "-packages/" in name]


def test_split_depends_on_the_file_s_name():
  # Literals: another rule would let files move between splits under trained models.
  assert [python_stdlib.split_of(name) for name in ("os.py", "asyncio/events.py", "asynchat.py")] == [
      "train", "validation", "test"]
  splits = [python_stdlib.split_of(f"package/module_{i}.py") for i in range(4000)]
  assert splits.count("validation") == pytest.approx(40, abs=20)
  assert splits.count("test") == pytest.approx(40, abs=20)
  assert len({python_stdlib.split_of(f"pydoc_data/topics.py:{i}") for i in range(100)}) == 1


def test_source_prepares_once_and_quietly(library, capfd):
  splits = {split: _read(split) for split in ("train", "validation", "test")}
  assert {name: split for split, texts in splits.items() for name in texts} == {
      name: python_stdlib.split_of(name) for name in DOCUMENTS}
  assert {name: text for texts in splits.values() for name, text in texts.items()} == DOCUMENTS
  (library / "module_0.py").unlink()  # Not looked at again.
  assert "module_0.py" in _read("train")
  assert capfd.readouterr().out == ""


def test_another_process_may_finish_first(library, monkeypatch, tmp_path):
  documents, directory = python_stdlib.documents, tmp_path / "data" / "tfds"

  def overtaken(root):
    monkeypatch.setattr(python_stdlib, "documents", documents)
    python_stdlib.prepare(directory)
    return documents(root)

  monkeypatch.setattr(python_stdlib, "documents", overtaken)
  assert _read("train").keys() == {name for name in DOCUMENTS if python_stdlib.split_of(name) == "train"}
  assert not list(directory.rglob("*incomplete*"))


def test_what_killed_processes_left_is_removed(library, tmp_path):
  folder = tmp_path / "data" / "tfds" / "python_stdlib" / python_stdlib.PythonStdlib.BUILDER_CONFIGS[0].name
  old, new = folder / "incomplete.ABCDEF_1.0.0", folder / "incomplete.GHIJKL_1.0.0"
  for path in (old, new):
    path.mkdir(parents=True)
  os.utime(old, (5, 5))
  _read("train")
  assert new.exists() and not old.exists()


@pytest.mark.parametrize("mistake", ["data directory is a file", "no sources"])
def test_errors_are_one_line(library, monkeypatch, tmp_path, mistake):
  if mistake == "no sources":
    config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
    monkeypatch.setattr(config, "root", tmp_path / "nowhere")
  else:
    (tmp_path / "data").write_text("")
  with pytest.raises(UserError, match="nowhere" if mistake == "no sources" else "GPT4X_DATA_DIR") as error:
    _read("train")
  assert "\n" not in str(error.value)
