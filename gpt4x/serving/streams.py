"""From a model's threads to the event loop: the events of the choices of one request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
import contextlib
from typing import Any

from gpt4x.serving.contract import Event, Failed, Finished, Overloaded, Request, Served, Ticket
from gpt4x.serving.lifecycle import Lifecycle
from gpt4x.serving.problems import busy, Problem, wrong

Receive = Callable[[], Awaitable[Any]]


class Left(Exception):
  """The client has gone: there is nobody to answer."""


class Running:
  """The choices of one request while they are made.

  A context: at its end, however that comes, whatever is not finished is cancelled.
  """

  def __init__(self, lifecycle: Lifecycle, max_pending: int | None):
    """`max_pending` is how many events may wait to be taken; None: any number, as where all are wanted at once."""
    self._lifecycle, self._max_pending = lifecycle, max_pending
    self._loop = asyncio.get_running_loop()
    self._queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
    self._tickets: dict[int, Ticket] = {}
    self._watch: asyncio.Task[None] | None = None

  def submit(self, model: Served, requests: Sequence[Request]) -> None:
    """Takes in all of them or, where there is no room, raises Problem; the context's end cancels the first."""
    if len(requests) > model.capacity:  # However often it came again.
      raise wrong(f"the request has {len(requests)} continuations, and the server takes {model.capacity} at a time:"
                  " ask for fewer", "n")
    try:
      for index, request in enumerate(requests):
        self._tickets[index] = model.submit(request, self._deliverer(index))
    except Overloaded as error:
      raise busy(str(error), error.retry_after) from None

  def _deliverer(self, index: int) -> Callable[[Event], None]:
    def deliver(event: Event) -> None:
      with contextlib.suppress(RuntimeError):  # The loop is closed: the server has ended.
        self._loop.call_soon_threadsafe(self._put, index, event)
    return deliver

  def _put(self, index: int, event: Event) -> None:
    if self._max_pending is not None and self._queue.qsize() >= self._max_pending:
      self.fail("the client reads too slowly")
    else:
      self._queue.put_nowait((index, event))

  def fail(self, message: str) -> None:
    """Cancels all, and puts an error in the place of what is yet to come."""
    self.cancel()
    while not self._queue.empty():
      self._queue.get_nowait()
    self._queue.put_nowait((-1, Failed(message)))

  def cancel(self) -> None:
    tickets, self._tickets = self._tickets, {}
    for ticket in tickets.values():
      ticket.cancel()

  def watch(self, receive: Receive) -> None:
    """Notices from now on that the client leaves. The request's body must have been received."""
    async def wait() -> None:
      while (await receive())["type"] != "http.disconnect":
        pass
      self.cancel()
      self._queue.put_nowait((-1, None))
    self._watch = asyncio.create_task(wait())

  async def events(self, count: int) -> AsyncIterator[tuple[int, Event]]:
    """(index, event) as they come, until `count` choices have ended; raises Left."""
    while count:
      index, event = await self._queue.get()
      if event is None:
        raise Left
      if isinstance(event, Finished | Failed):
        self._tickets.pop(index, None)
        count -= 1
      yield index, event
      if isinstance(event, Failed):
        return

  async def __aenter__(self) -> "Running":
    self._lifecycle.running.add(self)
    return self

  async def __aexit__(self, *_: Any) -> None:
    self._lifecycle.running.discard(self)
    self.cancel()
    if self._watch:
      self._watch.cancel()


def failure(event: Failed) -> Problem:
  return Problem(500, event.message, code="generation_failed")
