"""Heavy imports stay at the edges: what computes imports no data library, and what is at the edge imports late."""

import ast
import os
import shutil
import subprocess
import sys

MODULES = ["launch.agreement", "models.language_model", "models.codec_model", "objectives.next_token",
           "objectives.reconstruction", "media.codec_files", "media.exact", "partitioning", "inference.engine",
           "data.dataset", "data.stream", "training.step", "training.state", "training.optimizers",
           "checkpoints.manager", "training.metrics", "training.hardware", "training.plots", "interop.transfo_xl",
           "interop.exports"]
HEAVY = {"tensorflow", "tensorflow_datasets", "seqio", "t5x", "matplotlib", "grain"}


def imported_by(code: str) -> set[str]:
  """The top-level modules that a fresh Python has after `code`."""
  code += "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
  return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_computes_imports_no_data_library():
  assert not HEAVY & imported_by("import " + ", ".join(f"gpt4x.{module}" for module in MODULES))


def test_the_command_line_imports_nothing_heavy():
  """Nor does what carries a command out, ahead of the fork that several processes begin with."""
  heavy = HEAVY | {"jax", "flax", "numpy", "gin", "absl"}
  assert not heavy & imported_by("import gpt4x.cli, gpt4x.commands.running")


def test_the_list_of_prepared_data_comes_at_once():
  assert not (HEAVY | {"jax", "numpy", "gin"}) & imported_by("import gpt4x.cli; gpt4x.cli.main(['cache'])")


def test_who_generates_needs_nothing_that_trains(tmp_path, repository):
  """Of a run whose configuration names an optimizer and more."""
  shutil.unpack_archive(repository / "tests/fixtures/earlier_runs/dense.tar.gz", tmp_path, filter="data")
  run, = (path.parent for path in tmp_path.rglob("config.gin"))
  assert "train.optimizer" in (run / "config.gin").read_text()
  code = ("from gpt4x.commands import generate, reading; import sys\n"
          f"assert reading.saved_experiment({str(run)!r}, data=False).model.config.num_layers\n"
          "print(*(name for name in sys.modules if name.startswith(('gpt4x.training', 'gpt4x.interop', 'grain'))))")
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
  assert result.stdout == "\n"


def test_tensorflow_is_imported_quietly_first(repository):
  """Before what needs it, in every file that imports such at its top: so it greets nobody who uses us from Python."""
  greets = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}
  for path in sorted((repository / "gpt4x").rglob("*.py")):
    names = [name for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
             for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]]
    # t5x is for the command `train` alone, which imports all quietly; `gpt4x.tasks` does it for the tasks.
    if greets & set(names) and path.name != "tensorflow_quietly.py" and "t5x" not in path.parts:
      first = min(names.index(name) for name in greets & set(names))
      package = (path.parent / "__init__.py").read_text()  # Is imported before the files in it.
      assert "tensorflow_quietly" in names[:first] or "import tensorflow_quietly" in package, path


LOUD = """
import logging, sys
import jax  # Sets TensorFlow's log level, if it comes first.
from absl import logging as absl_logging
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
logging.getLogger("mine").setLevel(logging.DEBUG)
loggers = lambda: (logging.root.level, logging.root.handlers, logging.getLogger("mine").level,
                   logging.getLogger("jax").level, logging.getLogger("tensorflow").level, absl_logging.get_verbosity())
before = loggers()
import gpt4x.tasks, gpt4x.training.loop, gpt4x.inference.generate
import tensorflow as tf
assert loggers() == before
logging.getLogger("mine").debug("heard")
print(int(tf.constant(1) + 1))
"""


def test_python_hears_nothing_of_libraries_and_keeps_its_loggers(tmp_path):
  environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GRPC", "GLOG"))}
  result = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, cwd=tmp_path,
                          env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)})
  assert (result.returncode, result.stdout, result.stderr) == (0, "DEBUG:mine:heard\n2\n", "")
