"""Requests of many clients in the slots of one engine."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import logging
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.inference.engine import Chunk, Engine, Prefilled, Slots
from gpt4x.inference.speculation import Alone, Proposer, Speculation
from gpt4x.inference.text import Text
from gpt4x.models.language_model import Params
from gpt4x.serving.contract import Delta, Event, Failed, Finished, Overloaded, Prompted, Request, Token
from gpt4x.serving.prefixes import Prefixes

_LOG = logging.getLogger(__name__)
CHUNK = 8  # Tokens between two looks at who came and who left.
_TRIED = 8  # Steps after which guesses must pay.
_FEWER = 4  # Turns in which fewer slots would have done, after which there are fewer.


@dataclasses.dataclass(eq=False)
class Job:
  """A request on its way."""

  request: Request
  text: Text
  deliver: Callable[[Event], None]
  cancelled: bool = False
  reading: Iterator[Prefilled | None] | None = None  # The pieces of its prompt that are still to be read.
  cached: int = 0  # Tokens of its prompt that were known.
  delivered: int = 0  # Tokens.
  tops: list[Sequence[tuple[int, float]]] = dataclasses.field(default_factory=list)
  guesses: int = 0  # Steps that guessed.

  def cancel(self) -> None:
    """Frees its slot or its place in the queue; nothing more is delivered."""
    self.cancelled = True


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
    self._engine, self._params, self._text, self._slots_count = engine, params, text, slots
    self._max_queue, self._prefixes, self._propose = max_queue, prefixes, propose
    self._speculation = Speculation(engine)
    self._score = jax.jit(self._scored)
    self._waiting: deque[Job] = deque()
    self._changed = threading.Condition()
    # As few slots are decoded as will do, of a few sizes: on a CPU a row more takes its time, used or not.
    self._sizes = [*itertools.takewhile(lambda size: size < slots, (4**i for i in range(16))), slots]
    self._rows: list[Job | None] = [None] * self._sizes[0]
    self._enough = 0  # Turns in which fewer slots would have done.
    self._reading: Job | None = None
    self._alone: tuple[Job, Alone] | None = None
    self._stopped = False
    self._slots: Slots  # From the warm-up on.
    self._pays = 1.0  # Tokens of a guess, from which on it is faster than the slots are.
    self.ready = False
    self.counts = {"prompt_tokens": 0, "generated_tokens": 0, "cached_tokens": 0, "guessed_tokens": 0}
    self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

  def start(self) -> None:
    """Compiles everything, then takes requests."""
    self._warm_up()
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
    job = Job(request, self._text(request), deliver)
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
      waiting = sum(not one.cancelled for one in self._waiting)
      running = self._slots_count - self._free()
    return {"running": running, "waiting": waiting, "slots": self._slots_count, **self.counts}

  def _free(self) -> int:
    """Slots that nobody has."""
    taken = sum(one is not None for one in self._rows) + (self._reading is not None) + (self._alone is not None)
    return self._slots_count - taken

  # The thread.

  def _run(self) -> None:
    while True:
      with self._changed:
        while not (self._stopped or self._waiting or self._busy()):
          self._changed.wait()
        if self._stopped:
          break
      try:
        self._turn()
      except Exception:  # Whatever it is, the next requests have slots of their own.
        _LOG.exception("decoding failed")
        self._fail("the model failed: see the server's log")
        self._slots = self._engine.empty(self._params, len(self._rows))
    self._fail("the server is stopping")

  def _busy(self) -> bool:
    return self._reading is not None or self._alone is not None or any(self._rows)

  def _turn(self) -> None:
    """A piece of a prompt, and a chunk of what is decoded."""
    self._forget_cancelled()
    self._shrink()
    came = self._read()
    if self._alone:
      self._guess()
    elif any(self._rows):
      self._decode(1 if came else CHUNK)

  def _forget_cancelled(self) -> None:
    gone = lambda job: None if job is None or job.cancelled else job
    self._rows = [gone(job) for job in self._rows]
    self._reading = gone(self._reading)
    if self._alone and self._alone[0].cancelled:
      self._alone = None

  def _read(self) -> bool:
    """Reads a piece of a prompt; whether a row came, which waits for its first token."""
    if self._reading is None:
      with self._changed:
        while self._waiting and self._waiting[0].cancelled:
          self._waiting.popleft()
        if not self._waiting or not self._free():
          return False
        self._reading = self._waiting.popleft()
    job = self._reading
    try:
      if job.reading is None:
        job.reading = self._pieces(job)
      prefilled = next(job.reading)
      if prefilled is None:
        return False
      self._reading = None
      return self._place(job, prefilled)
    except Exception:  # Its own alone: nothing of the others was touched.
      _LOG.exception("a prompt failed")
      self._reading = None
      self._deliver(job, Failed("the prompt could not be read: see the server's log"))
      return False

  def _pieces(self, job: Job) -> Iterator[Prefilled | None]:
    """None for each piece but the last, and then what the prompt leaves."""
    ids, engine = list(job.request.ids), self._engine
    job.cached, known = (0, None) if job.request.prompt_log_probs else self._prefixes.find(ids)
    begun = engine.begin(self._params) if known is None else known
    row = begun
    self.counts["cached_tokens"] += job.cached
    self.counts["prompt_tokens"] += len(ids)
    prompted = list[Token]()
    if job.request.prompt_log_probs and ids:
      prompted += self._tokens(begun.logits, ids[:1], job.request.top)
    for count, hidden, row in engine.extensions(self._params, begun, ids[job.cached:]):
      place = job.cached + count
      self._prefixes.keep(ids[:place], row)
      if job.request.prompt_log_probs:
        next_ids = ids[len(prompted):place + 1]
        prompted += self._tokens(hidden, next_ids, job.request.top)
      if place < len(ids):
        yield None
    if job.request.prompt_log_probs:
      self._deliver(job, Prompted(prompted))
    yield row

  def _tokens(self, states: jax.Array, ids: Sequence[int], top: int) -> list[Token]:
    """Tokens as their places' hidden states [1, L, D], or the logits [1, V] of one, have them."""
    logits = states if states.ndim == 2 else None
    if not ids:
      return []
    count = 1 if logits is not None else states.shape[1]
    wanted = np.zeros(count, np.int32)
    wanted[:len(ids)] = ids
    log_probs, (best, best_ids) = map_arrays(self._score(self._params, states, wanted))
    return [Token(token, float(log_probs[i]), likeliest(best_ids[i], best[i], top)) for i, token in enumerate(ids)]

  def _scored(self, params: Params, states: jax.Array, ids: jax.Array):
    logits = states if states.ndim == 2 else self._engine.model.unembed(params, states)[0]
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, ids[:, None], 1)[:, 0], jax.lax.top_k(log_probs, self._engine.alternatives)

  def _place(self, job: Job, prefilled: Prefilled) -> bool:
    """Gives a row its slot; whether it got one."""
    request = job.request
    if request.max_tokens == 0:
      self._deliver(job, Finished("length", len(request.ids), 0, job.cached))
      return False
    if self._propose and not self._busy() and not self._waiting and not request.top:
      chunk, row = self._speculation.start(prefilled, request.seed, request.sample, request.sampling, request.ids)
      if self._take(job, chunk, 0):
        self._alone = job, row
      return False
    self._insert(job, prefilled, ())
    return True

  def _insert(self, job: Job, prefilled: Prefilled, drawn: Sequence[int]) -> None:
    if None not in self._rows:
      self._resize(next(size for size in self._sizes if size > len(self._rows)))
    request, row = job.request, self._rows.index(None)
    self._slots = self._engine.insert(
        self._params, self._slots, row, prefilled, request.seed, request.sample, request.sampling, request.ids,
        bool(request.top), drawn)
    self._rows[row] = job

  def _shrink(self) -> None:
    """Goes on with fewer slots, once they have been enough for some turns, or at once if nobody has one."""
    running = sum(one is not None for one in self._rows)
    size = next(size for size in self._sizes if size >= running)
    self._enough = self._enough + 1 if size < len(self._rows) else 0
    if self._enough >= _FEWER or (self._enough and not running):
      self._resize(size)

  def _resize(self, size: int) -> None:
    """So many slots, with the rows that are taken in the first of them."""
    taken = [row for row, job in enumerate(self._rows) if job is not None]
    self._slots = self._engine.take(self._slots, [*taken, *[0] * (size - len(taken))])
    self._rows = [*(self._rows[row] for row in taken), *[None] * (size - len(taken))]
    self._enough = 0

  def _guess(self) -> None:
    """Some tokens of the row that is alone, or a slot for it if others came or guesses do not pay."""
    assert self._alone and self._propose
    job, row = self._alone
    slow = job.guesses >= _TRIED and len(job.text.tokens) < self._pays * job.guesses
    if slow or self._reading or self._waiting or any(self._rows):
      self._alone = None
      self._insert(job, self._speculation.leave(self._params, row), job.text.tokens)
      self._decode(1)
      return
    guess = self._propose([*job.request.ids, *job.text.tokens], self._speculation.count)
    chunk, row = self._speculation.step(self._params, row, guess)
    job.guesses += 1
    self.counts["guessed_tokens"] += chunk.tokens.shape[1] - 1
    self._alone = (job, row) if self._take(job, chunk, 0) else None

  def _decode(self, length: int) -> None:
    chunk, self._slots = self._engine.step(self._params, self._slots, length)
    for row, job in enumerate(self._rows):
      if job and not self._take(job, chunk, row):
        self._rows[row] = None

  def _take(self, job: Job, chunk: Chunk, row: int) -> bool:
    """Delivers the tokens of a row; whether it goes on."""
    if job.cancelled:
      return False
    text, request = job.text, job.request
    if request.top and chunk.alternatives:
      ids, log_probs = (one[row] for one in chunk.alternatives)
      job.tops += [likeliest(*both, request.top) for both in zip(ids, log_probs)]
    new = text.add(chunk.tokens[row], chunk.log_probs[row])
    numbers = range(job.delivered, len(text.tokens))
    tokens = [Token(text.tokens[i], text.log_probs[i], job.tops[i] if request.top else ()) for i in numbers]
    self.counts["generated_tokens"] += len(tokens)
    job.delivered = len(text.tokens)
    if new or tokens:
      self._deliver(job, Delta(new, tokens))
    if text.finish_reason:
      self._deliver(job, Finished("length" if text.finish_reason == "length" else "stop", len(request.ids),
                                  len(text.tokens), job.cached))
    return not (text.finish_reason or job.cancelled)

  def _deliver(self, job: Job, event: Event) -> None:
    if job.cancelled:
      return
    try:
      job.deliver(event)
    except Exception:  # Who asked is gone.
      _LOG.exception("an event could not be delivered")
      job.cancelled = True

  def _fail(self, message: str) -> None:
    """Ends all requests."""
    with self._changed:
      jobs = [*self._rows, self._reading, self._alone and self._alone[0], *self._waiting]
      self._rows, self._reading, self._alone = [None] * len(self._rows), None, None
      self._waiting.clear()
    for job in jobs:
      if job:
        self._deliver(job, Failed(message))

  def _warm_up(self) -> None:
    """Compiles all that requests will need: twice, for what a program returns may lie otherwise than what it got."""
    engine, params = self._engine, self._params
    for _ in range(2):
      row = engine.begin(params)
      self._tokens(row.logits, [1], 1)
      for length in engine.piece_lengths:
        (_, hidden, row), = engine.extensions(params, row, [1] * length)
        self._tokens(hidden, [1], 1)
      for size in self._sizes:
        self._slots = engine.empty(params, size)
        for _ in range(2):
          self._slots = engine.insert(params, self._slots, 0, row)
          for length in (1, CHUNK):
            _, self._slots = engine.step(params, self._slots, length)
        for other in self._sizes:
          if other != size:
            engine.step(params, engine.insert(params, engine.take(self._slots, [0] * other), 0, row), 1)
      self._slots = engine.empty(params, self._sizes[0])
      if self._propose:
        self._try_guesses(row)

  def _try_guesses(self, row: Prefilled) -> None:
    """Compiles what guesses need, and sees how many of their tokens must be right for them to pay."""
    _, alone = self._speculation.start(row)
    for _ in range(2):
      start = time.perf_counter()
      _, alone = self._speculation.step(self._params, alone, [1])
      guess, start = time.perf_counter() - start, time.perf_counter()
      _, self._slots = self._engine.step(self._params, self._slots, CHUNK)
      self._pays = guess * CHUNK / (time.perf_counter() - start)
    self._speculation.leave(self._params, alone)


def likeliest(ids: Sequence[int], log_probs: Sequence[float], count: int) -> list[tuple[int, float]]:
  """The first so many, as numbers of Python."""
  return [(int(token), float(log_prob)) for token, log_prob in zip(ids[:count], log_probs[:count])]


def map_arrays(tree: Any) -> Any:
  """With NumPy's arrays."""
  return jax.tree.map(np.asarray, tree)
