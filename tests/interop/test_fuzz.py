"""A short run of benchmarks/fuzz.py, and that it finds what it looks for."""

import os
import signal
import subprocess
import sys
import time

from benchmarks import fuzz
from benchmarks.fuzzing.kinds import Kind
from gpt4x.errors import UserError

CASES = 40


def run(repository, *command):
  """In a process of its own: workers are forked, which JAX's threads do not survive."""
  finished = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=repository,
                            env=os.environ | {"PYTHONPATH": str(repository)})
  assert finished.returncode == 0, finished.stdout + finished.stderr
  return finished.stdout


def test_files_of_weights(repository):
  from benchmarks.fuzzing import weights
  printed = run(repository, "-m", "benchmarks.fuzz", *weights.KINDS, f"--cases={CASES}", "--seed=3")
  assert printed.count(" 0 failed") == len(weights.KINDS)


class Loud(UserError):
  """A UserError that is not made printable."""

  __str__ = Exception.__str__


def refuse(message, kind=UserError):
  raise kind(message)


FAULTS = {
    "ZeroDivisionError in ?: integer division": lambda folder: 1 // 0, "SystemExit": lambda folder: sys.exit(),
    "status -11": lambda folder: os.kill(os.getpid(), signal.SIGSEGV), "status 3": lambda folder: os._exit(3),
    "MemoryError": lambda folder: bytearray(2 << 30), "more than 0.1 s": lambda folder: time.sleep(60),
    "without a place": lambda folder: refuse("this"), "of 2 lines": lambda folder: refuse(f"{folder}\nline", Loud),
    "characters": lambda folder: refuse(str(folder) * 500, Loud), "refused": lambda folder: refuse(str(folder)),
    "read": lambda folder: None}


def check_faults():
  fuzz.SECONDS = 0.1
  for words, fault in FAULTS.items():
    def read(folder):
      if (folder / "file").read_bytes() == b"bad":
        fault(folder)

    kind = Kind(lambda folder: (folder / "file").write_bytes(b"good"), {"file": lambda rng, content: b"bad"}, read)
    outcomes = list(fuzz.run("kind", kind, 0, range(2)))  # A case is read after one that fails.
    assert [index for index, _ in outcomes] == [0, 1] and all(words in found for _, found in outcomes), outcomes


def test_faults_are_found(repository):
  run(repository, "-c", "from tests.interop import test_fuzz; test_fuzz.check_faults()")
