"""A model that is served without one: ids are bytes, what it answers follows from the request, and tests hold it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import threading

import numpy as np

from gpt4x.errors import UserError
from gpt4x.serving.contract import Delta, Event, Failed, Finished, Overloaded, Prompted, Request, Token

SECONDS = 20  # A test that waits longer has failed.


def answer(request: Request) -> bytes:
  """Tells requests apart, and has characters of two, three and four bytes."""
  return f"<{request.seed},{request.sample},{len(request.ids)}> naïve € 𝄞".encode()


class Ticket:

  def __init__(self, condition: threading.Condition):
    self.cancelled, self._condition = False, condition

  def cancel(self) -> None:
    with self._condition:
      self.cancelled = True
      self._condition.notify_all()


class Fake:
  """Implements `Served`. `hold` stops all before their next token; counts say who is where."""

  created, num_ids, window = 1_700_000_000, 256, 64

  def __init__(self, name: str = "fake", slots: int = 4, max_queue: int = 8, *, answer: Callable = answer,
               chat_refusal: str | None = None, fail_after: int | None = None):
    self.name, self.slots, self.max_queue, self.chat_refusal = name, slots, max_queue, chat_refusal
    self.capacity = slots + max_queue
    self.answer, self.fail_after, self.is_ready = answer, fail_after, True
    self.running = self.waiting = self.drawn = 0
    self.submitted: list[Request] = []
    self.conversations: list[Sequence[Mapping[str, object]]] = []
    self._held = False
    self._condition = threading.Condition()

  # What a test does.

  def hold(self, held: bool = True) -> None:
    with self._condition:
      self._held = held
      self._condition.notify_all()

  def wait_for(self, what: Callable[[], bool]) -> None:
    with self._condition:
      assert self._condition.wait_for(what, SECONDS), (self.running, self.waiting)

  def wait_idle(self) -> None:
    self.wait_for(lambda: self.running == self.waiting == 0)

  # What the HTTP side does.

  def encode(self, text: str) -> list[int]:
    if "unreadable" in text:
      raise UserError("the model cannot read this text")
    return list(text.encode())

  def text(self, token: int) -> str:
    return self.raw(token).decode("utf-8", "replace")

  def raw(self, token: int) -> bytes:
    return bytes([token])

  def chat(self, messages):
    self.conversations.append(messages)
    if any(message["role"] == "developer" for message in messages):
      raise UserError("the template knows no developer")
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    if any(part["type"] != "text" for part in parts):
      raise UserError("the model has no images")
    return self.encode("".join(f"{message['role']}: {message['content']}\n" for message in messages)), ("\n",)

  def submit(self, request: Request, deliver: Callable[[Event], None]) -> Ticket:
    with self._condition:
      if self.waiting + self.running >= self.slots + self.max_queue:
        raise Overloaded(3.0)
      self.waiting += 1
      self.submitted.append(request)
      self._condition.notify_all()
    ticket = Ticket(self._condition)
    threading.Thread(target=self._work, args=(request, deliver, ticket), daemon=True).start()
    return ticket

  def embed(self, ids):
    self.wait_for(lambda: not self._held)
    return np.array([[len(one), sum(one), 0.5] for one in ids], np.float32)

  def ready(self) -> bool:
    return self.is_ready

  def figures(self):
    return {"running": self.running, "waiting": self.waiting, "slots": self.slots, "generated_tokens": self.drawn}

  def _work(self, request: Request, deliver: Callable[[Event], None], ticket: Ticket) -> None:
    with self._condition:
      self._condition.wait_for(lambda: ticket.cancelled or self.running < self.slots)
      self.waiting -= 1
      self.running += not ticket.cancelled
      self._condition.notify_all()
      if ticket.cancelled:
        return
    try:
      for event in self._events(request):
        with self._condition:
          self._condition.wait_for(lambda: ticket.cancelled or not self._held)
        if ticket.cancelled:
          return
        deliver(event)
    finally:
      with self._condition:
        self.running -= 1
        self._condition.notify_all()

  def _token(self, token: int, place: int, request: Request) -> Token:
    top = [((token + k) % 256, -0.5 * (k + 1)) for k in range(request.top)]
    return Token(token, -0.5, top) if place else Token(token, None)

  def _events(self, request: Request) -> Iterator[Event]:
    if request.prompt_log_probs:
      yield Prompted([self._token(one, place, request) for place, one in enumerate(request.ids)])
    drawn, shown, whole = 0, 0, self.answer(request)
    for drawn, byte in enumerate(whole[:request.max_tokens], 1):
      self.drawn += 1
      if self.fail_after is not None and drawn > self.fail_after:
        yield Failed("the engine stopped")
        return
      done = whole[:drawn].decode("utf-8", "ignore")
      cut = min((done.find(stop) for stop in request.stop if stop in done), default=None)
      if cut is not None:
        yield Delta(done[shown:cut], [self._token(byte, 1, request)])
        yield Finished("stop", len(request.ids), drawn, len(request.ids) // 2)
        return
      held = max((k for stop in request.stop for k in range(len(stop)) if done.endswith(stop[:k])), default=0)
      sure = len(done) - held
      yield Delta(done[shown:sure], [self._token(byte, 1, request)])
      shown = sure
    done = whole[:drawn].decode("utf-8", "ignore")
    if done[shown:]:
      yield Delta(done[shown:], [])
    yield Finished("length" if drawn == request.max_tokens else "stop", len(request.ids), drawn, len(request.ids) // 2)
