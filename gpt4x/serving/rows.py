"""Jobs that are decoded together."""

from collections.abc import Sequence
import itertools

from gpt4x.inference.engine import Chunk, Engine, Prefilled, Slots
from gpt4x.inference.speculation import Speculation
from gpt4x.models.language_model import Params
from gpt4x.serving.job import Job

CHUNK = 8  # Tokens between two looks at who came and who left.
_FEWER = 4  # Turns in which fewer slots would have done, after which there are fewer.


class Rows:
  """The slots of an engine, as few of them as will do: on a CPU a row more takes its time, used or not."""

  def __init__(self, engine: Engine, params: Params, most: int):
    self._engine, self._params, self.most = engine, params, most
    self._sizes = [*itertools.takewhile(lambda size: size < most, (4**i for i in range(16))), most]
    self._jobs: list[Job | None] = [None] * self._sizes[0]
    self._enough = 0  # Turns in which fewer slots would have done.
    self._slots: Slots  # From the warm-up on.

  def __len__(self) -> int:
    """How many slots are taken."""
    return sum(job is not None for job in self._jobs)

  def insert(self, job: Job, prefilled: Prefilled) -> None:
    """Gives a job a slot."""
    if None not in self._jobs:
      self._resize(next(size for size in self._sizes if size > len(self._jobs)))
    request, row = job.request, self._jobs.index(None)
    self._slots = self._engine.insert(
        self._params, self._slots, row, prefilled, request.seed, request.sample, request.sampling, request.ids,
        bool(request.top))
    self._jobs[row] = job

  @property
  def alone(self) -> Job | None:
    """Who has the only slot there is."""
    return self._jobs[0] if len(self._jobs) == 1 else None

  def decode(self, length: int) -> None:
    """So many tokens of each job; those that end give their slots back."""
    chunk, self._slots = self._engine.step(self._params, self._slots, length)
    self._tell(chunk)

  def judge(self, speculation: Speculation, guess: Sequence[int]) -> int:
    """The tokens of the only job, as far as a guess is right and one more; how many."""
    chunk, self._slots = speculation.step(self._params, self._slots, guess)
    self._tell(chunk)
    return chunk.tokens.shape[1]

  def _tell(self, chunk: Chunk) -> None:
    for row, job in enumerate(self._jobs):
      if job and not job.take(chunk, row):
        self._jobs[row] = None

  def tidy(self) -> None:
    """Takes the slots of cancelled jobs; goes on with fewer if they have been enough for some turns, or none is taken.
    """
    self._jobs = [None if job is None or job.cancelled else job for job in self._jobs]
    size = next(size for size in self._sizes if size >= len(self))
    self._enough = self._enough + 1 if size < len(self._jobs) else 0
    if self._enough >= _FEWER or (self._enough and not len(self)):
      self._resize(size)

  def clear(self) -> list[Job]:
    """Takes all slots; returns whose they were."""
    jobs = [job for job in self._jobs if job]
    self._jobs = [None] * len(self._jobs)
    return jobs

  def renew(self) -> None:
    """Makes slots anew, where those that were may be lost."""
    self._slots = self._engine.empty(self._params, len(self._jobs))

  def _resize(self, size: int) -> None:
    """So many slots, with the rows that are taken in the first of them."""
    taken = [row for row, job in enumerate(self._jobs) if job is not None]
    self._slots = self._engine.take(self._slots, [*taken, *[0] * (size - len(taken))])
    self._jobs = [*(self._jobs[row] for row in taken), *[None] * (size - len(taken))]
    self._enough = 0

  def warm_up(self, row: Prefilled) -> None:
    """Compiles every size, and the ways from each to all others."""
    engine, params = self._engine, self._params
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
