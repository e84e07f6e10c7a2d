"""The last word about a process, however it ends."""

import subprocess
import sys

import pytest

# Each is run as process 1 of 2, by a Python that has no threads yet, and prints what `supervise` returns.
SUPERVISE = """
import os, signal, sys
from gpt4x.launch import clusters, supervision
def work(note):
  {}
print(supervision.supervise(clusters.Processes(int(sys.argv[2]), 1, "nowhere:1"), work, sys.argv[1]))
"""
GONE = "error: process 1 of 2: process 0 is gone; its own last line may say why: start all of them again"


@pytest.mark.parametrize("work, expected", [
    ("return 0, None", (0, None)),
    ("return 75, None", (75, None)),
    ("return 2, 'error: wrong'", (2, "error: wrong")),
    ("return 1, None", (1, GONE)),
    ("os.abort()", (1, GONE)),
    ("note('no answer'); os.abort()", (1, "error: process 1 of 2: no answer: start all of them again")),
    ("note('no answer'); note(''); os.abort()", (1, GONE)),
    ("os.kill(os.getpid(), signal.SIGKILL)",
     (1, "error: process 1 of 2: ended by SIGKILL (out of memory?): start all of them again")),
    ("signal.signal(signal.SIGTERM, lambda *_: os._exit(75)); os.kill(os.getppid(), signal.SIGTERM);"
     " signal.pause()", (75, None)),
])
def test_the_last_word(tmp_path, work, expected):
  command = [sys.executable, "-c", SUPERVISE.format(work), tmp_path, "2"]
  run = lambda: subprocess.run(command, capture_output=True, text=True)
  assert run().stdout.strip() == str(expected)
  if expected[1] and "again" in expected[1]:
    for name in ("8", "24", "32.orbax-checkpoint-tmp"):
      (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run().stdout.strip() == str((1, expected[1] + ", and the run continues from step 24"))


def test_who_is_gone_among_several(tmp_path):
  command = [sys.executable, "-c", SUPERVISE.format("return 1, None"), tmp_path, "3"]
  said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
  assert said.strip() == str((1, GONE.replace("of 2: process 0", "of 3: another process")))
