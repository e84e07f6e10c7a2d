"""Requests of many clients in the slots of one engine."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
import logging
import threading

from gpt4x.inference.engine import Engine, Prefilled
from gpt4x.inference.speculation import Proposer
from gpt4x.inference.text import Text
from gpt4x.models.language_model import Params
from gpt4x.serving.contract import Event, Failed, Overloaded, Request
from gpt4x.serving.guessing import Guessing
from gpt4x.serving.job import Job
from gpt4x.serving.prefixes import Prefixes
from gpt4x.serving.reading import Reader
from gpt4x.serving.rows import CHUNK, Rows

_LOG = logging.getLogger(__name__)


class Batcher:
  """One thread reads prompts, a piece at a time between chunks of decoding, and delivers what is drawn."""

  def __init__(self, engine: Engine, params: Params, text: Callable[[Request], Text], slots: int, max_queue: int,
               prefixes: Prefixes, propose: Proposer | None = None):
    """Prepares; `start` begins.

    Args:
      engine: with `adjusts` and alternatives.
      params: of its model.
      text: what takes a request's tokens.
      slots: rows that are decoded together.
      max_queue: requests that may wait.
      prefixes: what prompts have left.
      propose: guesses how the text of a request goes on that is alone; None: nothing is guessed.
    """
    self._text, self._max_queue = text, max_queue
    self._reader, self._rows = Reader(engine, params, prefixes), Rows(engine, params, slots)
    self._guessing = Guessing(engine, params, propose) if propose else None
    self._waiting: deque[Job] = deque()
    self._reading: tuple[Job, Iterator[Prefilled | None]] | None = None  # The pieces that are still to be read.
    self._changed = threading.Condition()
    self._stopped = False
    self.ready = False
    self._counts = Counter({f"{kind}_tokens": 0 for kind in ("prompt", "generated", "cached", "guessed")})
    self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

  def start(self) -> None:
    """Compiles everything, then takes requests."""
    for _ in range(2):  # What a program returns may lie otherwise than what it got.
      row = self._reader.warm_up()
      self._rows.warm_up(row)
      if self._guessing:
        self._guessing.warm_up(row)
    self.ready = True
    self._thread.start()

  def stop(self) -> None:
    """Ends; requests that are not finished fail."""
    with self._changed:
      self._stopped, self.ready = True, False
      self._changed.notify()
    if self._thread.is_alive():
      self._thread.join()

  def submit(self, request: Request, deliver: Callable[[Event], None]) -> Job:
    """Takes a request in, or raises Overloaded."""
    job = Job(request, self._text(request), deliver, self._counts)
    with self._changed:
      if self._stopped:
        raise Overloaded(retry_after=5.0)
      self._waiting = deque(one for one in self._waiting if not one.cancelled)
      if len(self._waiting) >= self._max_queue + self._free():
        raise Overloaded(retry_after=1.0)
      self._waiting.append(job)
      self._changed.notify()
    return job

  def figures(self) -> dict[str, float]:
    """What is now, and counts since the start."""
    with self._changed:
      waiting, free = sum(not one.cancelled for one in self._waiting), self._free()
    return {"running": self._rows.most - free, "waiting": waiting, "slots": self._rows.most, **self._counts}

  def _free(self) -> int:
    """Slots that nobody has."""
    return self._rows.most - len(self._rows) - (self._reading is not None)

  # The thread.

  def _run(self) -> None:
    try:
      while self._goes_on():
        try:
          self._turn()
        except Exception:  # Whatever it is, the next requests have slots of their own.
          _LOG.exception("decoding failed")
          self._fail("the model failed: see the server's log")
          self._rows.renew()
    finally:  # Also where there are no slots any more, as without a device.
      with self._changed:
        self._stopped, self.ready = True, False
      self._fail("the server is stopping")

  def _goes_on(self) -> bool:
    """Waits until there is something to do; False at the end."""
    with self._changed:
      while not (self._stopped or self._waiting or self._busy()):
        self._changed.wait()
      return not self._stopped

  def _busy(self) -> bool:
    return self._reading is not None or len(self._rows) > 0

  def _turn(self) -> None:
    """A piece of a prompt, and a chunk of what is decoded."""
    self._rows.tidy()
    if self._reading and self._reading[0].cancelled:
      self._reading = None
    came = self._read()
    if len(self._rows) and not (not came and self._reading is None and self._guessing
                                and self._guessing.step(self._rows)):
      self._rows.decode(1 if came else CHUNK)

  def _read(self) -> bool:
    """Reads a piece of a prompt; whether a row came, which waits for its first token."""
    if self._reading is None:
      with self._changed:
        while self._waiting and self._waiting[0].cancelled:
          self._waiting.popleft()
        if not self._waiting or not self._free():
          return False
        job = self._waiting.popleft()
        self._reading = job, self._reader.pieces(job)
    job, pieces = self._reading
    try:
      prefilled = next(pieces)
      if prefilled is None:
        return False
      self._reading = None
      return self._place(job, prefilled)
    except Exception:  # Its own alone: nothing of the others was touched.
      _LOG.exception("a prompt failed")
      self._reading = None
      job.tell(Failed("the prompt could not be read: see the server's log"))
      return False

  def _place(self, job: Job, prefilled: Prefilled) -> bool:
    """Gives a job its slot; whether it got one."""
    if job.request.max_tokens == 0:
      job.finish("length")
      return False
    self._rows.insert(job, prefilled)
    return True

  def _fail(self, message: str) -> None:
    """Ends all requests."""
    with self._changed:
      jobs = [*self._rows.clear(), *(self._reading or ())[:1], *self._waiting]
      self._reading = None
      self._waiting.clear()
    for job in jobs:
      job.tell(Failed(message))
