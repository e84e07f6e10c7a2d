"""One request while a model draws for it: the events of its choices, from the model's threads to the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
import contextlib
from typing import Any

from starlette.types import Receive, Scope

from gpt4x.serving.account import Account
from gpt4x.serving.asking import Asked
from gpt4x.serving.context import Context
from gpt4x.serving.contract import Event, Failed, Finished, Overloaded, Ticket
from gpt4x.serving.leaving import Left, left
from gpt4x.serving.problems import busy, Problem, wrong


@contextlib.asynccontextmanager
async def drawing(asked: Asked, context: Context, scope: Scope, receive: Receive) -> AsyncIterator["Drawing"]:
  """Has the model draw for a request whose body was received; raises Problem where there is no room.

  At the end, however that comes, whatever is not finished is cancelled.
  """
  one, watch = Drawing(asked, context, Account.of(scope)), None
  context.lifecycle.running.add(one)
  try:
    one.submit()
    watch = asyncio.create_task(one.watch(receive))
    yield one
  finally:
    context.lifecycle.running.discard(one)
    one.cancel()
    if watch:
      watch.cancel()


class Drawing:
  """What is drawn, as it comes."""

  def __init__(self, asked: Asked, context: Context, account: Account):
    self._asked, self._context, self._account = asked, context, account
    self._max_pending = context.settings.max_pending if asked.stream else None  # Else all are wanted at once.
    self._loop = asyncio.get_running_loop()
    self._queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
    self._tickets: dict[int, Ticket] = {}
    self._ends: dict[int, Finished] = {}
    self.usage: dict[str, Any] = {}  # What was used, once all events have come.

  def submit(self) -> None:
    """Takes in all choices or, where there is no room, raises Problem; the context's end cancels the first."""
    model, count = self._asked.model, self._asked.count
    if count > model.capacity:  # However often it came again.
      raise wrong(f"the request has {count} continuations, and the server takes {model.capacity} at a time: ask for"
                  " fewer", "n")
    try:
      for index, request in enumerate(self._asked.requests()):
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

  async def watch(self, receive: Receive) -> None:
    """Waits until the client leaves, and then cancels all."""
    await left(receive)
    self.cancel()
    self._queue.put_nowait((-1, None))

  async def events(self) -> AsyncIterator[tuple[int, Event]]:
    """(index, event) as they come, until every choice has ended; raises Left, and Problem where the model failed."""
    see, missing = self._context.metrics.timing(self._asked.model.name), self._asked.count
    while missing:
      index, event = await self._queue.get()
      if event is None:
        raise Left
      see(index, event)
      if isinstance(event, Finished | Failed):
        self._tickets.pop(index, None)
      if isinstance(event, Failed):
        raise Problem(500, event.message, code="generation_failed")
      if isinstance(event, Finished):
        self._ends[index] = event
        missing -= 1
      yield index, event
    self.usage = self._used()
    self._account.set(self.usage["prompt_tokens"], self.usage["completion_tokens"])

  def _used(self) -> dict[str, Any]:
    """A prompt counts once, however many continuations it has."""
    firsts = [self._ends[index] for index in sorted(self._ends) if index % self._asked.n == 0]
    prompt, drawn = sum(end.prompt_tokens for end in firsts), sum(end.completion_tokens for end in self._ends.values())
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn,
            "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in firsts)}}
