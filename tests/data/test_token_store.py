from concurrent import futures
import functools
import importlib
import os
import re
import subprocess
import sys
import threading
import types

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data import fingerprint, prepared, tokenization, vocabularies
from gpt4x.errors import UserError

VOCABULARY = seqio.PassThroughVocabulary(300, eos_id=1)
DOCUMENTS = [[5, 6, 7], [], [299], [8] * 2000]


def source(documents, splits=("train",)):
  def dataset(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices(tf.ragged.constant(documents, tf.int32)).map(
        lambda tokens: {"targets": tokens})
  return seqio.FunctionDataSource(dataset, splits=splits)


def task(documents=(), preprocessors=(), vocabulary=VOCABULARY, data=None, name="toy"):
  feature = seqio.Feature(vocabulary, add_eos=True)
  return seqio.Task(
      name, source=data or source(documents), preprocessors=list(preprocessors), output_features={"targets": feature})


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("GPT4X_DATA_DIR", str(tmp_path / "data"))
  return tmp_path / "data"


def stores(data_dir):
  return sorted(path.name for path in (data_dir / "tokens").iterdir())


def test_documents_are_what_the_task_yields(data_dir):
  toy = task(DOCUMENTS, [seqio.preprocessors.append_eos])
  store = tokenization.open_or_build(toy, "train")
  # The empty one holds its end alone.
  assert [document.tolist() for document in store] == [[5, 6, 7, 1], [1], [299, 1], [8] * 2000 + [1]]
  assert len(store) == 4 and store.num_tokens == 4 + 1 + 2 + 2001 and store.longest == 2001
  assert store.lengths().tolist() == [4, 1, 2, 2001]
  assert store.name == "toy/train"
  assert store[0].dtype == np.uint16 and store[0].base is not None and not store[0].flags.writeable
  path, = (data_dir / "tokens").iterdir()
  assert path.name == f"toy-train-{fingerprint.task_key(toy, 'train')}"
  assert {file.name for file in path.iterdir()} == {"tokens.bin", "offsets.npy", "spec.json"}
  assert (path / "tokens.bin").stat().st_size == 2 * store.num_tokens


def test_fingerprint_is_of_the_tokens_however_they_came():
  built = lambda *args, **kwargs: tokenization.open_or_build(task(*args, **kwargs), "train").fingerprint
  plain = built([[3, 1], [4, 5, 1]])
  assert built([[3], [4, 5]], [seqio.preprocessors.append_eos]) == plain  # Another task with the same tokens.
  assert built([[3, 1], [4, 6, 1]]) != plain and built([[3, 1, 4], [5, 1]]) != plain


def test_empty_documents_are_left_out():
  assert [len(document) for document in tokenization.open_or_build(task(DOCUMENTS), "train")] == [3, 1, 2000]


@pytest.mark.parametrize("size,dtype", [(256, np.uint8), (257, np.uint16), (65537, np.uint32)])
def test_smallest_type_that_holds_the_vocabulary(size, dtype):
  store = tokenization.open_or_build(task([[size - 1]], vocabulary=seqio.PassThroughVocabulary(size)), "train")
  assert store[0].dtype == dtype and store[0].tolist() == [size - 1]


def test_index_outside():
  store = tokenization.open_or_build(task([[3], [4]]), "train")
  for index in (-1, 2):
    with pytest.raises(IndexError):
      store[index]


def test_second_use_does_not_run_the_task(monkeypatch):
  first = tokenization.open_or_build(task([[3], [4]]), "train")
  monkeypatch.setattr(tokenization, "examples", lambda *args, **kwargs: pytest.fail("ran the task"))
  assert tokenization.open_or_build(task([[3], [4]]), "train").fingerprint == first.fingerprint


# What a store depends on. Each changes something, and never may the old store be used.


def add(dataset, amount=1):
  return dataset.map(lambda example: {"targets": example["targets"] + amount})


@gin.configurable
def add_configured(dataset, amount=1):
  return add(dataset, amount)


class Adder:
  """A preprocessor that is an object."""

  def __init__(self, amount):
    self.amount = amount

  def __call__(self, dataset):
    return add(dataset, self.amount)


@seqio.map_over_dataset
def add_mapped(example):
  return {"targets": example["targets"] + 1}


def closure(amount):
  return lambda dataset: add(dataset, amount)


def first_token(preprocessors):
  return tokenization.open_or_build(task([[5]], preprocessors), "train")[0].tolist()


def test_changed_documents_or_preprocessors_make_a_new_store(data_dir):
  assert tokenization.open_or_build(task([[5]]), "train")[0].tolist() == [5]
  assert tokenization.open_or_build(task([[6]]), "train")[0].tolist() == [6]
  assert first_token([add]) == [6]
  assert first_token([functools.partial(add, amount=2)]) == [7]
  assert first_token([closure(3)]) == [8]
  assert first_token([closure(4)]) == [9]
  assert first_token([Adder(5)]) == [10]
  assert first_token([Adder(6)]) == [11]
  assert first_token([add_configured]) == [6]
  gin.bind_parameter("add_configured.amount", 7)
  assert first_token([add_configured]) == [12]
  assert first_token([add_mapped]) == [6]
  assert len(stores(data_dir)) == 11


MODULES = {
    "toy_steps.py": """
import functools
import numpy as np
import seqio
from toy_helper import twice
import toy_package.words
TABLE = np.arange(5000)
class Step:
  def __init__(self): self.parent = self
  def __call__(self, dataset): return dataset.map(lambda x: toy_package.words.clean(twice(x)))
@seqio.map_over_dataset
def mapped(x, words=()): return x
closed = lambda table: lambda dataset: table
parts = [Step(), functools.partial(mapped, words={"u", "v", "w"}), seqio.preprocessors.append_eos, closed(TABLE),
         seqio.ByteVocabulary()]
""",
    "toy_helper.py": "def twice(x): return 2 * x",
    "toy_package/__init__.py": "",
    "toy_package/words.py": """
import gin
from . import deep
@gin.configurable
def clean(text, words=("a",)): return text
""",
    "toy_package/deep.py": "DEEP = 1",
}


@pytest.fixture(name="modules")
def _modules(tmp_path, monkeypatch):
  """A folder of a user's modules that can be imported."""
  for name, text in MODULES.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  return tmp_path


def key_of_steps():
  """The key of `toy_steps.parts`, imported afresh."""
  for name in [name for name in sys.modules if name.startswith("toy_")]:
    del sys.modules[name]
  with gin.config.interactive_mode():  # Which lets a configurable be registered again.
    return fingerprint.fingerprint(importlib.import_module("toy_steps").parts)


def test_key_follows_modules_and_gin(modules):
  keys = {key_of_steps()}
  for name, before, after in [
      ("toy_steps.py", "lambda x:", "lambda y:"),
      ("toy_helper.py", "2 * x", "3 * x"),
      ("toy_package/deep.py", "1", "2"),  # Imported by what is imported.
  ]:
    (modules / name).write_text((modules / name).read_text().replace(before, after))
    keys.add(key_of_steps())
  gin.bind_parameter("clean.words", ("b",))  # A helper's, not the preprocessor's own.
  keys.add(key_of_steps())
  assert len(keys) == 5


def test_key_follows_a_compiled_module(modules, monkeypatch):
  """Whose file is no text."""
  (modules / "toy_helper.py").write_text("import toy_compiled\ndef twice(x): return 2 * x")
  keys = set()
  for content in (b"\x7fELF\x85", b"\x7fELF\x86"):
    (modules / "toy_compiled.so").write_bytes(content)
    with monkeypatch.context() as patched:
      patched.setattr(sys, "meta_path", [Compiled(modules / "toy_compiled.so"), *sys.meta_path])
      keys.add(key_of_steps())
  assert len(keys) == 2


class Compiled(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finds an empty module toy_compiled that says it is in a file."""

  def __init__(self, file):
    self._file = file

  def find_spec(self, name, path=None, target=None):
    return importlib.util.spec_from_file_location(name, self._file, loader=self) if name == "toy_compiled" else None

  def exec_module(self, module):
    pass


def test_key_leaves_out_what_was_installed_in_a_folder_of_another_name(modules):
  """As by `pip install --target`: a library is told by its name."""
  (modules / "toy-1.0.dist-info").mkdir()
  fingerprint._has_distributions.cache_clear()
  before = key_of_steps()
  (modules / "toy_helper.py").write_text((modules / "toy_helper.py").read_text().replace("2 * x", "3 * x"))
  assert key_of_steps() == before
  fingerprint._has_distributions.cache_clear()


def test_a_warning_changes_no_key(modules):
  """Though Python notes it among what the module holds."""
  before, module = key_of_steps(), sys.modules["toy_steps"]
  with pytest.warns(UserWarning):
    exec("__import__('warnings').warn('late')", vars(module))
  assert "__warningregistry__" in vars(module) and fingerprint.fingerprint(module.parts) == before


def test_key_tells_values_from_the_middle_of_an_array():
  keys = {fingerprint.fingerprint(closure(np.arange(5000) * factor)) for factor in (1, np.arange(5000) != 2500)}
  assert len(keys) == 2


def test_key_is_the_same_in_another_process(modules):
  here = key_of_steps()
  assert re.fullmatch("[0-9a-f]{16}", here)
  code = "import toy_steps; from gpt4x.data import fingerprint; print(fingerprint.fingerprint(toy_steps.parts))"
  environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
  there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert there.stdout.strip() == here


def test_key_follows_a_notebook(monkeypatch):
  def run(*cells):
    monkeypatch.setitem(sys.modules, "__main__", notebook := types.ModuleType("__main__"))  # As IPython does.
    for cell in cells:
      exec(cell, vars(notebook))  # pylint: disable=exec-used
    return fingerprint.fingerprint([notebook.preprocess, notebook.step])

  cells = ["def preprocess(ds): return ds.map(lambda x: x + 1)",
           "class Step:\n  def __call__(self, ds): return ds.map(lambda x: x * 2)", "step = Step()"]
  changed = ["def preprocess(ds): return ds.map(lambda x: x - 1)",
             "class Step:\n  def __call__(self, ds): return ds.map(lambda x: x * 3)"]
  keys = {run(*cells[:i], cell, *cells[i + 1:]) for i, cell in enumerate(changed)}
  assert run(*cells) == run(*cells, "OTHER = 5") and len(keys | {run(*cells)}) == 3


def test_key_does_not_change_by_use():
  used = task([[3]], [closure(1), Adder(2), add_mapped])
  before = fingerprint.task_key(used, "train")
  tokenization.open_or_build(used, "train")
  assert fingerprint.task_key(used, "train") == before


@seqio.map_over_dataset
def parse(line):
  return {"targets": tf.strings.to_number(tf.strings.split([line]).values, tf.int32)}


def text_task(pattern):
  return task(data=seqio.TextLineDataSource({"train": pattern}), preprocessors=[parse])


def test_changed_files_make_a_new_store(tmp_path):
  read = lambda: [document.tolist() for document in tokenization.open_or_build(text_task(f"{tmp_path}/*.txt"), "train")]
  (tmp_path / "a.txt").write_text("3 4\n5\n")
  assert read() == [[3, 4], [5]]
  (tmp_path / "a.txt").write_text("3 4\n5\n6\n")
  assert read() == [[3, 4], [5], [6]]
  (tmp_path / "b.txt").write_text("7\n")
  seqio.utils._list_files_for_glob.cache_clear()  # As in a new process.
  assert sorted(read()) == [[3, 4], [5], [6], [7]]
  (tmp_path / "a.txt").write_text("3 4\n5\n9\n")  # Same size.
  os.utime(tmp_path / "a.txt", (5, 5))
  assert sorted(read()) == [[3, 4], [5], [7], [9]]


def test_source_may_speak_for_itself():
  class Source(seqio.FunctionDataSource):
    revision = 1

    def fingerprint_parts(self):
      return {"revision": self.revision}

  data = Source(source([[5]])._dataset_fn, splits=["train"])
  first = fingerprint.task_key(task(data=data), "train")
  assert fingerprint.task_key(task(data=data), "train") == first
  data.revision = 2
  assert fingerprint.task_key(task(data=data), "train") != first


def test_vocabulary_counts(tmp_path):
  def key(vocabulary):
    return fingerprint.task_key(task([[5]], vocabulary=vocabulary), "train")

  keys = {key(vocabulary) for vocabulary in (seqio.ByteVocabulary(), seqio.ByteVocabulary(extra_ids=3), VOCABULARY)}
  for words in (["a", "b"], ["a", "c"]):
    keys.add(key(vocabularies.write_words(words, tmp_path)))
  assert len(keys) == 5


# What goes wrong.


def fails(broken, match, split="train"):
  with pytest.raises(UserError, match=match) as error:
    tokenization.open_or_build(broken, split)
  assert "\n" not in str(error.value)


def test_empty_corpus(data_dir):
  fails(task([[], []]), "task toy, split train: the corpus is empty")
  assert not stores(data_dir)


@pytest.mark.parametrize("token", [300, -1])
def test_token_outside_the_vocabulary(token, data_dir):
  fails(task([[3, token]]), f"token {token} is outside its vocabulary of 300")
  assert not stores(data_dir)


def test_what_seqio_objects_to():
  fails(task([[3]], [lambda dataset: dataset.map(lambda example: {"other": example["targets"]})]),
        "task toy, split train: .* missing expected output feature after preprocessing: targets")


def test_error_inside_the_source():
  def documents():
    yield [3]
    raise UserError("notes.txt is not UTF-8")

  def dataset(split, shuffle_files):
    del split, shuffle_files
    spec = {"targets": tf.TensorSpec([None], tf.int32)}
    return tf.data.Dataset.from_generator(lambda: ({"targets": d} for d in documents()), output_signature=spec)

  fails(task(data=seqio.FunctionDataSource(dataset, splits=["train"])),
        "^task toy, split train: notes.txt is not UTF-8$")


def test_bug_in_a_preprocessor_keeps_its_traceback():
  def broken(dataset):
    return dataset.nothing()

  with pytest.raises(AttributeError, match="nothing"):
    tokenization.open_or_build(task([[3]], [broken]), "train")


def test_place_that_cannot_be_written(data_dir):
  data_dir.write_text("a file, not a folder")
  fails(task([[3]]), r"cannot write .*make room, or set GPT4X_DATA_DIR")


def test_place_that_cannot_be_read(data_dir, monkeypatch):
  tokenization.open_or_build(task([[3]]), "train")
  monkeypatch.setattr(np, "memmap", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
  fails(task([[3]]), "token store .* cannot be read .Permission denied.: change its permissions")  # It is not damaged.


# Who else builds, and who died building.


def test_killed_build_is_no_store(monkeypatch, data_dir):
  with monkeypatch.context() as patch:
    # As a kill would: at the last moment, with nobody to clean up.
    patch.setattr(prepared.shutil, "rmtree", lambda *args, **kwargs: None)
    patch.setattr(prepared.pathlib.Path, "rename", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      tokenization.open_or_build(task([[3, 4]]), "train")
  assert [name.endswith(".building") for name in stores(data_dir)] == [True]
  assert tokenization.open_or_build(task([[3, 4]]), "train")[0].tolist() == [3, 4]


def test_several_build_at_once(monkeypatch, data_dir):
  builders, run = threading.Barrier(3), tokenization.examples

  def together(*args, **kwargs):
    builders.wait(timeout=60)  # All have seen that there is no store.
    return run(*args, **kwargs)

  monkeypatch.setattr(tokenization, "examples", together)
  with futures.ThreadPoolExecutor() as pool:
    built = list(pool.map(lambda _: tokenization.open_or_build(task([[3, 4]]), "train"), range(3)))
  assert [store[0].tolist() for store in built] == [[3, 4]] * 3
  assert len(stores(data_dir)) == 1 and not stores(data_dir)[0].endswith(".building")
