"""Public data sets by tensorflow-datasets, which are there before anything is asked of them."""

from collections.abc import Mapping
import importlib.resources.abc
import importlib.util
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow_datasets as tfds

from gpt4x.data.task_examples import say_once
from gpt4x.errors import one_line, UserError

if importlib.util.find_spec("importlib_resources") is None:
  # With which tfds looks for checksums of downloads, a dependency that it does not declare. Python's own has the same.
  tfds.core.dataset_builder.importlib_resources = importlib.resources


class PublicSource(seqio.TfdsDataSource):
  """A set of tfds, which tfds prepares at first use: below `$TFDS_DATA_DIR`, or where it is by default.

  A UserError if it cannot be prepared, as without the network.
  """

  def __init__(self, name: str, splits: Mapping[str, str]):
    """Takes the name with the version, and what each split is in tfds, such as {"train": "train[:99%]"}."""
    super().__init__(name, splits=dict(splits))
    self._tfds_dataset = _Loader(name, split_map=dict(splits), read_only=True)  # As it prepares by itself.


class _Loader(seqio.utils.LazyTfdsLoader):
  """Prepares a set whenever its builder is asked for.

  What a builder knows of its splits, by which prepared tokens are found again (`fingerprint.py`), is empty before.
  """

  def _get_builder(self, split: str | None = None) -> Any:
    try:
      builder = super()._get_builder(split)
      if builder.data_path.exists():
        return builder
      self._forget(split)
      _warn_of_beam(builder)
      builder.download_and_prepare()
      return super()._get_builder(split)  # Another, which knows the splits as those of later processes do.
    except Exception as error:  # tfds raises many kinds.  pylint: disable=broad-exception-caught
      raise UserError(f"tensorflow-datasets cannot prepare {self.name} ({one_line(error, 300)}): see"
                      f" https://www.tensorflow.org/datasets/catalog/{self.name.partition(':')[0].partition('/')[0]},"
                      " and run where the network is") from error

  def _forget(self, split: str | None) -> None:
    """Has the next builder read what is there."""
    del self._MEMOIZED_BUILDERS[self._get_builder_key(*self.get_split_params(split))]


def _warn_of_beam(builder: Any) -> None:
  """Says, before it begins, that one machine may be too few for what is to be prepared."""
  if isinstance(builder, tfds.core.BeamBasedBuilder):
    say_once(f"gpt4x: warning: tensorflow-datasets prepares {builder.info.full_name} by Apache Beam, on this machine"
             " alone, which can take weeks: see https://www.tensorflow.org/datasets/beam_datasets for others")
