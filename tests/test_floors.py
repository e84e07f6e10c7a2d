"""The floors of the house: a room imports only from rooms that stand below it, whether at the top or in a function."""

import ast
from collections.abc import Iterator
import graphlib
import pathlib

import pytest

# From the top. Rooms on one line do not import each other.
FLOORS = """
    cli
    commands
    api
    serving
    planning interop
    posttraining
    training
    evaluation
    inference
    experiment
    checkpoints
    compression
    objectives
    models
    preparation
    tasks
    media
    data
    configuration
    launch
    partitioning
    run_directory
    html_page
    storage
    errors
"""
LEVELS = {room: level for level, line in enumerate(FLOORS.split("\n")) for room in line.split()}

# What computes has no data library near it.
PURE = ("gpt4x/models/", "gpt4x/objectives/", "gpt4x/partitioning.py", "gpt4x/training/step.py",
        "gpt4x/media/grammar.py", "gpt4x/media/layout.py", "gpt4x/media/medium.py", "gpt4x/media/tokens.py")
DATA_LIBRARIES = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"}

# Reading gin's state is for those who face the user; the rest of the library is told what it needs.
READS_GIN = ("gpt4x/commands/", "gpt4x/configuration/")
STATE_OF_GIN = {"get_bindings", "query_parameter", "config_str", "operative_config_str", "get_configurable",
                "current_scope", "current_scope_str", "config"}
ALSO_READS_GIN = {("gpt4x/data/fingerprint.py", "get_bindings")}  # What is bound to a preprocessor is part of its key.


@pytest.fixture(scope="module", name="files")
def _files(request) -> dict[str, ast.Module]:
  """Every file of the package and of `tasks/`, by its path from the root."""
  root = request.config.rootpath
  return {path.relative_to(root).as_posix(): ast.parse(path.read_text())
          for folder in ("gpt4x", "tasks") for path in sorted((root / folder).rglob("*.py"))}


def test_a_room_imports_from_below(files):
  rooms = {room(path) for path in files} - {None}
  assert rooms <= set(LEVELS), f"say on which floor these stand: {rooms - set(LEVELS)}"
  wrong = sorted(set(wrong_imports(files)))
  assert not wrong, "\n".join(wrong)


def test_files_import_each_other_in_no_circle(files):
  graphlib.TopologicalSorter({path: set(imported_files(path, files)) for path in files}).prepare()  # Or CycleError.


def test_only_who_faces_the_user_reads_gins_state(files):
  wrong = sorted(set(wrong_gin(files)))
  assert not wrong, "\n".join(wrong)


def test_what_computes_imports_no_data_library(files):
  wrong = sorted(set(wrong_libraries(files)))
  assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path, code, rule", [
    ("gpt4x/models/moe.py", "def f():\n  from gpt4x.training import loop", "imports"),
    ("gpt4x/models/moe.py", "from gpt4x import objectives", "imports"),
    ("gpt4x/models/moe.py", "import gpt4x.training.loop as loop", "imports"),
    ("gpt4x/models/moe.py", "from ..training import loop", "imports"),
    ("gpt4x/models/moe.py", "import importlib\nimportlib.import_module('gpt4x.training.loop')", "imports"),
    ("gpt4x/planning/plan.py", "import gpt4x.interop.layerwise", "imports"),
    ("gpt4x/errors.py", "import gpt4x.run_directory", "imports"),
    ("tasks/local_text.py", "from gpt4x.models import config", "imports"),
    ("gpt4x/data/stream.py", "import tasks", "imports"),
    ("gpt4x/data/stream.py", "import gpt4x.data.dataset", "circle"),
    ("gpt4x/training/loop.py", "import gin\ngin.query_parameter('train.seed')", "gin"),
    ("gpt4x/training/loop.py", "from gin import config as c", "gin"),
    ("gpt4x/data/fingerprint.py", "import gin\ngin.config_str()", "gin"),
    ("gpt4x/training/loop.py", "from gin import get_bindings", "gin"),
    ("gpt4x/models/moe.py", "def f():\n  import seqio", "libraries"),
    ("gpt4x/training/step.py", "from tensorflow.io import gfile", "libraries"),
])
def test_the_rules_see_what_breaks_them(path, code, rule):
  stubs = dict.fromkeys((
      "gpt4x/objectives/__init__.py", "gpt4x/training/loop.py", "gpt4x/interop/layerwise.py", "gpt4x/run_directory.py",
      "gpt4x/models/config.py", "tasks/__init__.py", "gpt4x/models/moe.py"), "")
  stubs["gpt4x/data/dataset.py"] = "from gpt4x.data import stream"
  files = {name: ast.parse(text) for name, text in {**stubs, path: code}.items()}
  broken = {"imports": list(wrong_imports(files)), "gin": list(wrong_gin(files)),
            "libraries": list(wrong_libraries(files))}
  assert [name for name, found in broken.items() if found] == ([] if rule == "circle" else [rule])
  if rule == "circle":
    with pytest.raises(graphlib.CycleError):
      test_files_import_each_other_in_no_circle(files)


def room(path: str) -> str | None:
  """The room of a file, which is a folder or a file of the package; None for what only says a version."""
  parts = pathlib.PurePath(path).with_suffix("").parts
  if parts[0] == "tasks" or parts[1] == "tasks":
    return "tasks"
  return None if parts[1] == "__init__" else parts[1]


def wrong_imports(files: dict[str, ast.Module]) -> Iterator[str]:
  for path in files:
    for other in imported_files(path, files):
      here, there = room(path), room(other)
      if here and there and here != there and LEVELS[here] >= LEVELS[there]:
        yield f"{path} imports {other}"


def imported_files(path: str, files: dict[str, ast.Module]) -> Iterator[str]:
  """The files of ours that a file imports; of a package's name, the package's own file."""
  for name in imported_names(path, files[path]):
    # The longest part of the name that is a file: what follows is something in it.
    parts = name.split(".")
    if parts[:2] == ["gpt4x", "tasks"]:
      parts = parts[1:] if len(parts) > 2 else parts
    for length in range(len(parts), 0, -1):
      stem = "/".join(parts[:length])
      found = next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in files), None)
      if found:
        if found != path:
          yield found
        break


def imported_names(path: str, tree: ast.Module) -> Iterator[str]:
  """Full names of modules, or of what is taken from them."""
  package = pathlib.PurePath(path).parts[:-1]
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package[:len(package) + 1 - node.level] if node.level else ()
      base = ".".join([*above, *([node.module] if node.module else [])])
      yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
      if isinstance(node.args[0], ast.Constant):
        yield node.args[0].value


def wrong_libraries(files: dict[str, ast.Module]) -> Iterator[str]:
  for path in files:
    if path.startswith(PURE):
      for name in imported_names(path, files[path]):
        if name.split(".")[0] in DATA_LIBRARIES:
          yield f"{path} imports {name}"


def wrong_gin(files: dict[str, ast.Module]) -> Iterator[str]:
  for path, tree in files.items():
    if not path.startswith(READS_GIN):
      for name in names_of_gin(path, tree):
        if name.split(".")[1] in STATE_OF_GIN and (path, name.split(".")[1]) not in ALSO_READS_GIN:
          yield f"{path} reads {name}"


def names_of_gin(path: str, tree: ast.Module) -> Iterator[str]:
  """What a file takes from the module `gin`."""
  yield from (name for name in imported_names(path, tree) if name.startswith("gin."))
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gin":
      yield f"gin.{node.attr}"
