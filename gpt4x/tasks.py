"""The shipped seqio tasks; importing this registers them. They live in the folder `tasks` of a clone.

A wheel holds that folder as `gpt4x/tasks`, so that a user's own module or folder may have the name `tasks`.
"""

import pathlib

_here = pathlib.Path(__file__).resolve()
__path__ = [str(_here.with_suffix("") if _here.with_suffix("").is_dir() else _here.parent.parent / "tasks")]

from gpt4x.data import tensorflow_quietly  # noqa: E402, F401
from gpt4x.tasks import (  # noqa: E402, F401
  denoising,
  local_chat,
  local_graph,
  local_media,
  local_text,
  prepared_text,
  public_media,
  public_text,
  python_stdlib,
)
