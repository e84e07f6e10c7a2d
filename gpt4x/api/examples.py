"""A program's own examples: any object with a length and items by number."""

from collections.abc import Mapping
import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

from gpt4x.errors import UserError


def feature(item: Any) -> dict[str, Any]:
  """An example as a dict with `input_ids`; one that is tokens alone becomes that."""
  return dict(item) if isinstance(item, Mapping) else {"input_ids": item}


class _Read(NamedTuple):
  content: str  # Sixteen hexadecimal digits.
  longest: int  # The number of the longest example.
  ids: tuple[int, int]  # The lowest and the highest id.


class Examples:
  """A dataset as a trainer reads it. The first question about its content reads it once, whole."""

  def __init__(self, dataset: Any, name: str):
    """Takes the dataset and how messages call it."""
    self.dataset, self.name = dataset, name
    if isinstance(dataset, Mapping):
      raise UserError(f"{name} has several datasets ({', '.join(map(str, dataset))}): give it one of them")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
      raise UserError(f"{name} is a {type(dataset).__name__} without a length or without items by number: give it"
                      " __len__ and __getitem__, or list(...) it")
    if not len(dataset):
      raise UserError(f"{name} has no examples: give it some")

  def __len__(self) -> int:
    return len(self.dataset)

  def __getitem__(self, number: int) -> Any:
    return self.dataset[number]

  @property
  def content(self) -> str:
    """What tells these examples from others, whatever files they come from."""
    return self._read.content

  @property
  def longest(self) -> Any:
    """The example with the most tokens."""
    return self.dataset[self._read.longest]

  @property
  def ids(self) -> tuple[int, int]:
    """The lowest and the highest id that a token has."""
    return self._read.ids

  @functools.cached_property
  def _read(self) -> _Read:
    digest, longest, most, low, high = hashlib.sha256(), 0, -1, 0, 0
    for number in range(len(self)):
      item = feature(self.dataset[number])
      if "input_ids" not in item:
        raise UserError(f"{self.name}[{number}] has {', '.join(map(str, item)) or 'nothing'}: give it input_ids")
      for name in sorted(item):
        value = np.asarray(item[name])
        if name == "input_ids":
          if value.ndim != 1 or (value.size and value.dtype.kind not in "iu"):
            raise UserError(f"{self.name}[{number}] has input_ids {value.dtype} {list(value.shape)}: give whole numbers"
                            " in one row, [n]")
          if len(value) > most:
            longest, most = number, len(value)
          if len(value):
            low, high = min(low, int(value.min())), max(high, int(value.max()))
        numeric = value.dtype.kind in "iub"
        digest.update(repr((number, name, value.shape)).encode())
        digest.update(value.astype(np.int64).tobytes() if numeric else repr(item[name]).encode())
    if most < 1:
      raise UserError(f"{self.name} has no token in any of its {len(self):,} examples: give it some")
    return _Read(digest.hexdigest()[:16], longest, (low, high))
