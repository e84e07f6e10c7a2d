"""Calls of functions that may hang or crash, in a child process that the system ends when they do.

The child sets an alarm whose signal it leaves to the system, which ends a process inside C code as well. It is a
program of its own and no process of `multiprocessing`, because the workers of a pool may not start any of those.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any, BinaryIO, IO, NamedTuple, TypeVar

T = TypeVar("T")


class Crash(Exception):
  """The child died."""


class Child:
  """A child process that calls functions, one after another; started when first needed, and again after it died.

  Threads take turns. A process that was forked from this one gets a child of its own.
  """

  def __init__(self) -> None:
    self._turn = threading.Lock()
    self._running: _Running | None = None

  def call(self, function: Callable[..., T], *arguments: Any, timeout: float, modules: Sequence[str] = ()) -> T:
    """What a function returns or raises; it and its arguments can be pickled.

    The child imports `modules`, where they are installed, before the time begins.

    Raises:
      TimeoutError: it took longer than `timeout` seconds.
      Crash: the child died of something else, such as a fault or a lack of memory.
    """
    with self._turn:
      running = self._running = self._running or _start()
      try:
        pickle.dump((function, arguments, timeout, modules), running.calls)
        running.calls.flush()
        good, result = pickle.load(running.results)
      except (OSError, EOFError, pickle.UnpicklingError):
        status = self._end(running)
        raise TimeoutError if status == -signal.SIGALRM else Crash(f"exit status {status}") from None
      except BaseException:  # Such as a KeyboardInterrupt: what comes from the child next would be its answer to this.
        self._end(running)
        raise
    if good:
      return result
    raise result

  def _end(self, running: "_Running") -> int:
    """Ends the child; returns its exit status."""
    self._running = None
    for pipe in (running.calls, running.results):
      with contextlib.suppress(OSError):
        pipe.close()
    try:
      return running.process.wait(1)  # Most have died already.
    except subprocess.TimeoutExpired:
      running.process.kill()
      return running.process.wait()

  def forget(self) -> None:
    """Leaves the child to the process that this one was forked from."""
    self.__init__()  # type: ignore[misc]


@functools.cache
def child() -> Child:
  """The child of this process."""
  found = Child()
  os.register_at_fork(after_in_child=found.forget)
  return found


class _Running(NamedTuple):
  process: subprocess.Popen
  calls: IO[bytes]
  results: IO[bytes]


def _start() -> _Running:
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=environment)
  assert process.stdin and process.stdout
  return _Running(process, process.stdin, process.stdout)


def _serve(calls: BinaryIO, results: BinaryIO) -> None:
  """Answers calls until the parent ends, whose end closes the pipe."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent's to decide.
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  with contextlib.suppress(EOFError, BrokenPipeError):
    while True:
      function, arguments, timeout, modules = pickle.load(calls)
      for module in modules:
        with contextlib.suppress(ImportError):
          importlib.import_module(module)
      signal.setitimer(signal.ITIMER_REAL, timeout)
      try:
        answer = pickle.dumps((True, function(*arguments)))
      except MemoryError:
        os._exit(1)
      except Exception as error:  # Whatever it raises is the caller's.  pylint: disable=broad-exception-caught
        answer = _pickled(error)
      signal.setitimer(signal.ITIMER_REAL, 0)
      results.write(answer)
      results.flush()


def _pickled(error: Exception) -> bytes:
  try:
    pickled = pickle.dumps((False, error))
    pickle.loads(pickled)  # Some errors can be pickled, but not be made again.
    return pickled
  except Exception:  # pylint: disable=broad-exception-caught
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


if __name__ == "__main__":
  # What functions print must not come between the answers.
  pipe = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  logging.disable()  # Libraries have a line for every odd page; what comes of it is counted.
  _serve(sys.stdin.buffer, pipe)
