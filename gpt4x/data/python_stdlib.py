"""The default corpus: the standard library's own sources and documentation, which every Python installation carries."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import runpy
import sys
import sysconfig
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from gpt4x.data import data_dir, make_folder, prepared, share, variable
from gpt4x.errors import UserError

SUFFIXES = (".py", ".txt", ".rst")
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}  # Installed packages are not the library.
BUILD_PREFIXES = ("_sysconfigdata", "config-")  # Files that hold paths of the machine that built Python.
TOPICS = "pydoc_data/topics.py"  # The language reference, as a dict of texts.


def documents(root: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields (name, text) of each document: a file under `root`, or a topic of the language reference as `FILE:TOPIC`."""
  for folder, subfolders, files in os.walk(root):
    subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
    for path in sorted(pathlib.Path(folder, file) for file in files):
      name = path.relative_to(root).as_posix()
      if path.suffix not in SUFFIXES or name.startswith(BUILD_PREFIXES):
        continue
      if name == TOPICS:
        topics = runpy.run_path(str(path))["topics"]
        yield from ((f"{name}:{topic}", text) for topic, text in sorted(topics.items()))
        continue
      with contextlib.suppress(UnicodeDecodeError):  # A few old sources declare another encoding.
        if text := path.read_bytes().decode("utf-8"):
          yield name, text


def split_of(name: str) -> str:
  """Returns a document's split: 98% train, 1% validation, 1% test, by the file's name alone."""
  file = name.partition(":")[0]  # Topics quote each other, so all of them stay on one side.
  bucket = int(hashlib.sha256(file.encode()).hexdigest(), 16) % 100
  return "validation" if bucket < 1 else "test" if bucket < 2 else "train"


@dataclasses.dataclass(kw_only=True)
class PythonStdlibConfig(tfds.core.BuilderConfig):
  """One Python's standard library."""
  root: pathlib.Path


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
  """The running Python's standard library; another Python is another config."""

  VERSION = tfds.core.Version("1.0.0")  # Raise it whenever the rules above change, or old prepared data would be read.
  BUILDER_CONFIGS = [PythonStdlibConfig(
      name="python{}.{}.{}".format(*sys.version_info), root=pathlib.Path(sysconfig.get_path("stdlib")))]
  # Otherwise TFDS looks for checksums of downloads with importlib_resources, a dependency that it does not declare.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict({"name": tfds.features.Text(), "text": tfds.features.Text()})
    return self.dataset_info_from_configs(
        features=features, description="Python standard library sources and texts.",
        disable_shuffling=True)  # In order of names, neighbours are alike, and a compressor gains by that.

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for name, text in documents(self.builder_config.root):
      splits[split_of(name)].append({"name": name, "text": text})
    if not splits["train"]:
      raise UserError(
          f"no Python sources in {self.builder_config.root}; use a Python whose standard library is not in an archive")
    return {split: self._generate_examples(examples) for split, examples in splits.items()}

  def _generate_examples(self, examples: Any) -> Any:
    return enumerate(examples)


@functools.cache
def prepare(directory: pathlib.Path) -> None:
  """Prepares the corpus under `directory` unless it is there; several processes may do so at once."""
  builder = PythonStdlib(data_dir=directory)
  if builder.data_path.exists():
    return
  try:
    make_folder(directory)
    prepared.remove_abandoned(pathlib.Path(builder.data_path.parent), "*incomplete*")  # TFDS leaves them.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # Progress bars.
      builder.download_and_prepare()
    for path in [directory / builder.name, *(directory / builder.name).rglob("*")]:
      share(path)
  except (OSError, RuntimeError) as error:  # TFDS turns a full disk into a RuntimeError.
    # The last step renames a temporary folder; it fails where another process came first, with the same data.
    if not builder.data_path.exists():
      reason = " ".join(str(error).split())
      raise UserError(
          f"cannot prepare python_stdlib in {directory} ({reason}); make room there or set {variable()}") from error


class PythonStdlibSource(seqio.TfdsDataSource):
  """Reads `PythonStdlib`, which it prepares in `$GPT4X_DATA_DIR` on first use."""

  def __init__(self):
    config, = PythonStdlib.BUILDER_CONFIGS
    # Read-only keeps seqio from asking the network for a prepared copy.
    super().__init__(f"{PythonStdlib.name}/{config.name}:{PythonStdlib.VERSION}",
                     splits=("train", "validation", "test"), read_only=True)

  @property
  def tfds_dataset(self) -> seqio.utils.LazyTfdsLoader:
    """The loader, through which the base class does all its reading."""
    directory = data_dir() / "tfds"
    prepare(directory)
    self._tfds_dataset.override_data_dir(str(directory))
    return self._tfds_dataset

  def get_dataset(self, split: str = "train", shuffle: bool = True, seed: int | None = None,
                  shard_info: seqio.ShardInfo | None = None, **options: Any) -> tf.data.Dataset:
    """See seqio.DataSource. Shuffles here, since TFDS refuses to shuffle data that is stored in order."""
    dataset = super().get_dataset(split, shuffle=False, shard_info=shard_info, **options)
    return dataset.shuffle(self.num_input_examples(split), seed=seed) if shuffle else dataset
