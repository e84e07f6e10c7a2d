"""Heavy imports stay at the edges: what computes imports no data library, and what is at the edge imports late."""

import subprocess
import sys

MODULES = ["launch.agreement", "models.language_model", "objectives.next_token", "partitioning", "inference.engine",
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
