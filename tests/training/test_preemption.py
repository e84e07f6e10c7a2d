"""A run may be asked to stop at any moment, and goes on as if it had not been."""

import os
import re
import signal
import subprocess
import sys

import pytest

from gpt4x import cli
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.data.dataset import Dataset
from gpt4x.training import loop
from gpt4x.training.metrics import MetricsWriter
from gpt4x.training.step import TrainStep
from tests.integration import corpus
from tests.integration.faults import trail

LAST = 24


@pytest.fixture(autouse=True)
def unheard():
  """Notices that no run has taken for its own: their usual handlers would end the tests."""
  numbers = []
  previous = {number: signal.signal(number, lambda number, _: numbers.append(number))
              for number in (signal.SIGTERM, signal.SIGINT)}
  yield numbers
  for number, handler in previous.items():
    signal.signal(number, handler)


@pytest.fixture(scope="module", name="straight")
def _straight(tmp_path_factory):
  """The text, and the trail of a run that nobody stops."""
  folder = tmp_path_factory.mktemp("straight")
  text = corpus.write(folder / "text")
  assert cli.main(flags(text, folder / "run")) == 0
  return text, trail(folder / "run")


def flags(text, model_dir):
  return corpus.flags(text, model_dir, TRAIN_STEPS=LAST, EVAL_PERIOD=12, EVAL_STEPS=3)


def send(number=signal.SIGTERM, times=1):
  for _ in range(times):
    signal.raise_signal(number)


def before(monkeypatch, owner, name, when, then):
  """Does `then` before the call of a method for which `when(arguments)` holds; returns how often it was called."""
  method, calls = getattr(owner, name), []

  def wrapper(*arguments, **keywords):
    calls.append(arguments)
    if when(*arguments):
      then()
    return method(*arguments, **keywords)

  monkeypatch.setattr(owner, name, wrapper)
  return calls


def while_evaluating(monkeypatch, which):
  """Sends SIGTERM with the second batch of an evaluation; returns the number of batches of each."""
  evaluation, counts = Dataset.evaluation, []

  def wrapper(self, *arguments):
    number = len(counts)
    counts.append(0)
    for batch in evaluation(self, *arguments):
      counts[number] += 1
      if (number, counts[number]) == (which, 2):
        send()
      yield batch

  monkeypatch.setattr(Dataset, "evaluation", wrapper)
  return counts


def test_stopped_again_and_again(straight, tmp_path, capsys, unheard):
  """In the first evaluation, before the first step, between steps, in another evaluation, and in the last one."""
  text, expected = straight
  model_dir, steps = tmp_path / "run", lambda: Checkpoints(str(tmp_path / "run")).steps()

  def start(status, words):
    assert cli.main(flags(text, model_dir)) == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(words, last), last
    assert not (model_dir / "train.lock").exists() and not unheard

  with pytest.MonkeyPatch.context() as patch:
    counts = while_evaluating(patch, 0)
    start(75, "stopped by SIGTERM, before it had done a step: the same command continues")
    assert counts == [2] and steps() == []
  with pytest.MonkeyPatch.context() as patch:
    before(patch, TrainStep, "jit", lambda *_: True, send)
    start(75, "before it had done a step")
    assert steps() == []
  with pytest.MonkeyPatch.context() as patch:
    before(patch, MetricsWriter, "write", lambda self, at, split, _: (at, split) == (5, "train"),
           lambda: send(signal.SIGINT))
    start(130, f"stopped by Ctrl-C, saved at step 6 of {LAST}: the same command continues")
    assert steps() == [6]
  with pytest.MonkeyPatch.context() as patch:
    counts = while_evaluating(patch, 0)  # That of step 12.
    start(75, f"saved at step 12 of {LAST}")
    assert counts == [2] and steps() == [6, 8, 12]
  with pytest.MonkeyPatch.context() as patch:
    counts = while_evaluating(patch, 1)  # That of the last step, after the one that is still due.
    start(75, f"saved at step {LAST} of {LAST}")
    assert counts == [4, 2] and steps()[-1] == LAST
  start(0, f"step {LAST}: validation")
  assert trail(model_dir) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_save_comes_to_its_end(straight, tmp_path, monkeypatch, unheard, number):
  """In a thread of its own, while the run has nothing left but to wait for it."""
  text, expected = straight
  saved = []
  monkeypatch.setattr(Checkpoints, "_write_record", _after(lambda: saved.append(1), Checkpoints._write_record))
  before(monkeypatch, Checkpoints, "close", lambda *_: True, lambda: send(number, 1 if number == signal.SIGINT else 2))
  before(monkeypatch, loop.plots, "plot_losses", lambda *_: True, send)
  assert cli.main(flags(text, tmp_path / "run")) == 0  # There is nothing left to do.
  assert trail(tmp_path / "run") == expected and Checkpoints(str(tmp_path / "run")).steps()[-1] == LAST and saved
  assert not unheard
  send()  # From then on it is again the business of who called.
  assert unheard == [signal.SIGTERM]


def _after(then, method):
  def wrapper(*arguments):
    result = method(*arguments)
    then()
    return result
  return wrapper


SECOND = """
import signal, sys
from gpt4x.training.preemption import Preemption
preemption = Preemption()
signal.raise_signal(signal.SIGINT)
assert preemption.reached() and preemption.status == 130
signal.raise_signal(signal.SIGTERM)  # A request like the first.
try:
  signal.raise_signal(signal.SIGINT)
finally:
  print("waits for what is under way")
"""


def test_a_second_interrupt_ends_at_once():
  result = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, env=dict(os.environ))
  assert (result.returncode, result.stdout) == (130, "")
  assert "Ctrl-C again ends at once" in result.stderr and result.stderr.endswith("gpt4x: interrupted\n")
