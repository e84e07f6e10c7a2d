"""Preparing batches in the background while the devices compute."""

from collections.abc import Iterator
import queue
import threading
from typing import Any


class Prefetch:
  """Iterates over (batch, state): what `iterator` yields, and what its `get_state` said right after, if it has one.

  A checkpoint with that state continues at the batch after the last one consumed, however many more were prepared.
  Errors are raised where the batch is awaited.
  """

  def __init__(self, iterator: Iterator[Any], size: int):
    self._iterator = iterator
    self._results: queue.SimpleQueue[tuple[Any, Any, BaseException | None]] = queue.SimpleQueue()
    self._free = threading.Semaphore(size)
    self._end: BaseException | None = None  # What ended the iteration.
    self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
    self._thread.start()

  def _work(self) -> None:
    get_state = getattr(self._iterator, "get_state", lambda: None)
    while True:
      self._free.acquire()
      if self._end is not None:
        return
      try:
        self._results.put((next(self._iterator), get_state(), None))
      except BaseException as error:  # StopIteration among them.  pylint: disable=broad-exception-caught
        self._results.put((None, None, error))
        return

  def __iter__(self) -> "Prefetch":
    return self

  def __next__(self) -> tuple[Any, Any]:
    if self._end is None:
      batch, state, self._end = self._results.get()
      self._free.release()
    if self._end is not None:
      raise self._end
    return batch, state

  def close(self) -> None:
    """Ends the thread, once it is done with the batch in hand; drops what was prepared."""
    self._end = StopIteration()
    self._free.release()
    self._thread.join()


def prefetch(iterator: Iterator[Any], size: int = 2) -> Prefetch:
  """Yields (batch, state after it) from a thread that keeps up to `size` batches ready; `close()` it when done."""
  return Prefetch(iterator, size)
