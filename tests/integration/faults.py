"""Runs of the command that die or are asked to stop at a chosen moment."""

from collections import Counter
import json
import os
import re
import subprocess
import sys

# Runs the command with a fault: SIGKILL or SIGTERM to itself at a chosen moment, so that no test waits or guesses.
FAULTY = """
import os, signal, sys
from gpt4x import cli
from gpt4x.checkpoints import manager
from gpt4x.training import metrics
fault, step = sys.argv[1], int(sys.argv[2])
kill = lambda: os.kill(os.getpid(), getattr(signal, fault.split("-")[0]))
if fault == "SIGKILL-while-saving":
  write_record = manager.Checkpoints._write_record
  manager.Checkpoints._write_record = lambda self: kill() if self._pending[0] == step else write_record(self)
else:
  write = metrics.MetricsWriter.write
  def write_or_die(self, at, split, values):
    if at == step and split == "train":
      kill()
    write(self, at, split, values)
  metrics.MetricsWriter.write = write_or_die
sys.exit(cli.main(sys.argv[3:]))
"""
STRAIGHT = "from gpt4x import cli; import sys; sys.exit(cli.main(sys.argv[1:]))"


def on(devices):
  """The environment of a process that has so many devices, and compiles as this one."""
  return os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}


def start(code, *argv):
  return subprocess.Popen([sys.executable, "-c", code, *map(str, argv)], env=on(1), text=True, stderr=subprocess.PIPE)


def finish(process):
  _, stderr = process.communicate()
  return process.returncode, stderr


def trail(model_dir):
  """What must repeat: every line's step, split and losses, digit for digit; speeds may differ."""
  text = (model_dir / "metrics.jsonl").read_text()
  # As written, not as parsed: floats are compared as text.
  fields = r'"(?:step|split|loss|accuracy|gradient_norm|bits_per_byte)": [^,}]+'
  return [re.findall(fields, line) for line in text.splitlines()]


def outcome(model_dir, step):
  """What a run has left: its metrics but for speeds, the steps in TensorBoard's events, and its last checkpoint."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp
  import tensorflow as tf
  events = Counter[tuple[str, int]]()
  for path in model_dir.glob("*tfevents*"):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      events.update((value.tag, event.step) for value in event.summary.value)
  arrays = []
  with ocp.PyTreeCheckpointer() as checkpointer:
    for item in ("params", "state"):
      tree = checkpointer.restore(model_dir / "checkpoints" / str(step) / item)
      arrays += [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes())
                 for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
  record = json.loads((model_dir / "checkpoints" / str(step) / "checkpoint.json").read_text())["record"]
  return {"metrics": trail(model_dir), "events": events, "arrays": arrays,
          "data positions": record["data_state"]}
