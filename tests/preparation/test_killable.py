"""Calls in a child process, some of which hang or crash where Python has no say."""

import concurrent.futures
import functools
import multiprocessing
import os
import re
import signal
import time

import pytest

from gpt4x.errors import UserError
from gpt4x.preparation import killable
from gpt4x.preparation.decoding import decoded
from gpt4x.preparation.libraries import library

LONG = 60.0


@pytest.fixture(name="child", scope="module")
def _child():
  return killable.Child()


def test_results_and_errors_come_back(child):
  assert child.call(decoded, b"f\xfcr", timeout=LONG) == "für"
  assert child.call(sum, [1, 2], 3, timeout=LONG) == 6
  with pytest.raises(ZeroDivisionError):
    child.call(divmod, 1, 0, timeout=LONG)
  with pytest.raises(UserError, match="needs no, which"):
    child.call(library, "no.such.module", "this", timeout=LONG)
  large = os.urandom(5_000_000)
  assert child.call(bytes.upper, large, timeout=LONG) == large.upper()


def test_what_hangs_in_c_is_ended_and_the_next_call_is_answered(child):
  hanging = functools.partial(re.match, "(a+)+b"), "a" * 60
  before = child.call(os.getpid, timeout=LONG)
  with pytest.raises(TimeoutError):
    child.call(*hanging, timeout=0.05)
  with pytest.raises(TimeoutError):
    child.call(time.sleep, LONG, timeout=0.05)
  after = child.call(os.getpid, timeout=LONG)
  assert after != before
  with pytest.raises(ProcessLookupError):
    os.kill(before, 0)
  assert child.call(os.getpid, timeout=LONG) == after  # One child for all that is well.


@pytest.mark.parametrize("crash", [
    functools.partial(os._exit, 3), os.abort, functools.partial(signal.raise_signal, signal.SIGKILL),
    functools.partial(bytes, 1 << 60)])  # The last lacks memory.
def test_a_crash_is_told_apart(child, crash):
  with pytest.raises(killable.Crash):
    child.call(crash, timeout=LONG)
  assert child.call(len, "ab", timeout=LONG) == 2


def test_what_is_printed_is_no_answer(child):
  assert child.call(print, "noise", timeout=LONG) is None
  assert child.call(os.write, 1, b"noise\n", timeout=LONG) == 6


def test_the_alarm_of_a_call_is_off_behind_it(child):
  child.call(len, "", timeout=LONG)
  assert child.call(signal.getitimer, signal.ITIMER_REAL, timeout=1000.0)[0] > LONG


def test_modules_are_imported_before_the_time_begins():
  child = killable.Child()
  assert child.call(len, "", timeout=LONG, modules=("gpt4x.preparation.decoding", "no.such.module")) == 0


def _in_a_worker(_):
  return killable.child().call(os.getpid, timeout=LONG), os.getpid()


def test_each_process_has_a_child_of_its_own():
  """Also the workers of a pool, which multiprocessing lets have no children of its kind, and forked ones."""
  mine = killable.child().call(os.getpid, timeout=LONG)
  with multiprocessing.get_context("fork").Pool(2) as pool:
    found = set(pool.map(_in_a_worker, range(20), chunksize=1))
  assert len({worker for _, worker in found}) == len({child for child, _ in found}) == len(found)
  assert mine not in {child for child, _ in found}
  assert killable.child().call(os.getpid, timeout=LONG) == mine


def test_threads_take_turns(child):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda value: child.call(abs, value, timeout=LONG), range(-50, 0))) == list(range(50, 0, -1))


def test_a_child_ends_with_its_parent():
  context = multiprocessing.get_context("fork")
  ours, theirs = context.Pipe()

  def parent():
    theirs.send(killable.Child().call(os.getpid, timeout=LONG))
    os._exit(1)

  process = context.Process(target=parent)
  process.start()
  pid = ours.recv()
  process.join()
  deadline = time.monotonic() + LONG
  while _alive(pid) and time.monotonic() < deadline:
    os.sched_yield()
  assert not _alive(pid)


def _alive(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False
