"""Two real processes on loopback train as one, go on from one and the other way round, and end together."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gpt4x import cli
from tests.integration import corpus
from tests.integration.faults import FAULTY, on, STRAIGHT
from tests.launch.meeting import free_port

NEVER = 10**9


def two(flags, devices=1, fault=None, at=NEVER, victim=None):
  """[(status, standard error)] of two processes of the command; `victim` gets the fault as it writes step `at`."""
  env = on(devices)
  env.pop("TF_CPP_MIN_LOG_LEVEL", None)  # By which the command takes what libraries say for wanted.
  port, started = free_port(), []
  for index in range(2):
    code = [FAULTY, fault, str(at if index == victim else NEVER)] if fault else [STRAIGHT]
    own = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", f"--process_id={index}",
           "--heartbeat_timeout=10"]
    started.append(subprocess.Popen([sys.executable, "-c", *code, *flags, *own], env=env, text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE))
  outputs = [process.communicate(timeout=150) for process in started]
  assert [stdout for stdout, _ in outputs] == ["", ""]
  return [(process.returncode, stderr) for process, (_, stderr) in zip(started, outputs)]


def losses(model_dir):
  """{(step, split): loss}, each once."""
  lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
  found = {(line["step"], line["split"]): line["loss"] for line in lines}
  assert len(found) == len(lines), "only one process writes"
  return found


def steps(model_dir):
  return sorted(int(path.name) for path in (model_dir / "checkpoints").iterdir() if path.name.isdecimal())


def assert_as_one(model_dir, expected, last):
  """The same losses to rounding, up to step `last`, whose evaluation is not among those of a longer run."""
  found = losses(model_dir)
  keys = [key for key in expected if key[0] <= last]
  assert set(keys) <= set(found) and max(found)[0] == last
  np.testing.assert_allclose([found[key] for key in keys], [expected[key] for key in keys], rtol=1e-5)


@pytest.fixture(scope="module", name="one")
def _one(tmp_path_factory):
  """The text, the directory of one process's run of 40 steps with every checkpoint, and its losses."""
  folder = tmp_path_factory.mktemp("one")
  text = corpus.write(folder / "text")
  assert cli.main(corpus.flags(text, folder / "run", CheckpointConfig__keep=9)) == 0
  return text, folder / "run", losses(folder / "run")


def test_two_train_as_one_and_one_goes_on(one, tmp_path):
  text, _, expected = one
  first, second = two(corpus.flags(text, tmp_path / "run", TRAIN_STEPS=24), devices=2)
  assert first[0] == second[0] == 0, (first, second)
  assert "data=4 x" in first[1] and second[1] == ""
  assert_as_one(tmp_path / "run", expected, 24)
  assert {"config.gin", "loss.png", "vocabulary.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
  assert cli.main(corpus.flags(text, tmp_path / "run")) == 0
  assert_as_one(tmp_path / "run", expected, 40)


def test_two_go_on_from_one_and_stop_together(one, tmp_path):
  """On a mesh that splits no batch, so that both read all rows; SIGTERM reaches only the second.

  Each step is evaluated, so that the notice may find both in an evaluation, which they then give up together.
  """
  text, run, expected = one
  shutil.copytree(run, tmp_path / "run")
  for step in (24, 32, 40):
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
  flags = corpus.flags(text, tmp_path / "run", TRAIN_STEPS=10**6, EVAL_PERIOD=1, Partitioner__data=1,
                       Partitioner__tensor=2)
  results = two(flags, fault="SIGTERM", at=20, victim=1)
  assert [status for status, _ in results] == [75, 75], results
  last = steps(tmp_path / "run")[-1]
  assert last >= 20 and f"saved at step {last} of 1000000" in results[0][1]
  found = losses(tmp_path / "run")
  assert max(found)[0] == last
  both = sorted(set(found) & set(expected))
  assert (20, "train") in both
  np.testing.assert_allclose([found[key] for key in both], [expected[key] for key in both], rtol=1e-5)


def test_one_is_killed(one, tmp_path):
  """The second; the first by itself is killed in tests/launch/test_agreement.py, where it takes less."""
  results = two(corpus.flags(one[0], tmp_path / "run", TRAIN_STEPS=10**6, EVAL_PERIOD=None), fault="SIGKILL", at=30,
                victim=1)
  assert [status for status, _ in results] == [1, 1]
  survivor, killed = [stderr.splitlines()[-1] for _, stderr in results]
  assert survivor == ("gpt4x: error: process 0 of 2: process 1 is gone; its own last line may say why: start all of"
                      f" them again, and the run continues from step {steps(tmp_path / 'run')[-1]}")
  assert killed.startswith("gpt4x: error: process 1 of 2: ended by SIGKILL (out of memory?): start all of them again")
