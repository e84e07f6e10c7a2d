"""Libraries of the extra `prepare`, which are imported where they are used."""

import importlib
from typing import Any

from gpt4x.errors import UserError


def library(module: str, what: str, package: str = "") -> Any:
  """A module of the extra; a UserError that says what needs it, and its package, where it is not installed."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    name = package or module.partition(".")[0]
    raise UserError(f"{what} needs {name}, which is not installed: pip install 'gpt4x[prepare]'") from error
