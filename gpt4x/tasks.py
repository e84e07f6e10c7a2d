"""The shipped seqio tasks, which importing this registers. Their home is the folder `tasks` beside this package.

By this name no `tasks.py` or `tasks/` of a user's can hide them, nor they the user's.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parent.parent / "tasks")]

from gpt4x.tasks import local_text, python_stdlib  # noqa: E402, F401
