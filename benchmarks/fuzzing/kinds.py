"""A kind of file to be fuzzed."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

from benchmarks.fuzzing.mutations import Mutation


@dataclasses.dataclass(frozen=True)
class Kind:
  """Files, what changes them, and what reads them.

  Attributes:
    make: writes good files into a folder.
    changes: the mutation of each file that is changed; a case changes one of them.
    read: reads the folder; it may raise nothing but UserError.
    places: what a message may name instead of the folder.
    memory: the bytes that reading may take; with JAX and its threads it is more.
  """

  make: Callable[[pathlib.Path], None]
  changes: Mapping[str, Mutation]
  read: Callable[[pathlib.Path], Any]
  places: tuple[str, ...] = ()
  memory: int = 512 << 20
