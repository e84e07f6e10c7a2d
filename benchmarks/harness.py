"""Two sides of a comparison, each in a process of its own, that take turns; and the rows of figures this gives.

A side is a top-level function `make(case)`, which prepares and returns a function of no arguments; each call of that is
one round and returns what it measured, by name. A worker that is not asked waits on its pipe, so that sides never
compete for the machine, and whatever else slows it down for a while meets all of them. Sides import what they need
inside `make`, for importing this package is to cost nothing.
"""

from collections.abc import Callable, Mapping
from concurrent import futures
import contextlib
import dataclasses
import multiprocessing
from multiprocessing import connection, spawn
import operator
import os
import pathlib
import re
import resource
import site
import statistics
import sys
import time
import traceback
from typing import Any

Round = dict[str, float]
Make = Callable[[Any], Callable[[], Round]]

ON_CPU = {"JAX_PLATFORMS": "cpu"}

_COMPARISONS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}


@dataclasses.dataclass(frozen=True)
class Row:
  """A figure beside its peer's, both in `unit`.

  Attributes:
    name: its first part names the group: `train/6x512`.
    value: ours.
    unit: of value and peer.
    peer: the other side's, of the same run.
    ratio: the median over the rounds of value / peer of the same round.
    limit_share: the share of the machine's own limit that value is, of the same run.
    error: the standard error of value, where that is a mean over seeds.
    goal: a comparison of one of the numbers above, such as `ratio >= 1.6`; empty where a row is for information.
  """

  name: str
  value: float
  unit: str
  peer: float | None = None
  ratio: float | None = None
  limit_share: float | None = None
  error: float | None = None
  goal: str = ""

  @property
  def met(self) -> bool | None:
    """Whether the goals, joined by `and`, are all reached; None if there is none."""
    goals = [re.fullmatch(r"(\w+) (>=|<=|<|>) ([\d.]+)", goal).groups() for goal in self.goal.split(" and ") if goal]
    return all(_COMPARISONS[sign](getattr(self, name), float(bound)) for name, sign, bound in goals) if goals else None


class Side:
  """A worker process that has prepared `make(case)`, in this environment and more; `round()` runs one round of it.

  `python` is the interpreter of another environment, in which a peer is installed.
  """

  def __init__(self, make: Make, case: Any, environment: Mapping[str, str] = ON_CPU, python: str | None = None):
    context = multiprocessing.get_context("spawn")
    self._name = make.__name__
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, make, case, dict(environment)), daemon=True)
    ours = spawn.get_executable()
    spawn.set_executable(python or ours)
    self._process.start()
    spawn.set_executable(ours)
    theirs.close()

  def round(self) -> Round:
    """What the side measured, and `peak_memory`, the most that its process has had until now, in GiB."""
    self._pipe.send(None)
    try:
      result = self._pipe.recv()
    except (EOFError, ConnectionError):
      self._process.join()
      raise RuntimeError(f"{self._name} died with exit status {self._process.exitcode}") from None
    if isinstance(result, str):
      raise RuntimeError(f"{self._name} failed:\n{result}")
    return result

  def close(self) -> None:
    self._pipe.close()
    self._process.join()


def in_a_process(function: Callable, *arguments: Any, environment: Mapping[str, str] = ON_CPU) -> Any:
  """What a top-level function returns, from a process of its own: what it imports does not stay here."""
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(_call, function, arguments, dict(environment)).result()


def _call(function: Callable, arguments: tuple[Any, ...], environment: dict[str, str]) -> Any:
  os.environ.update(environment)
  return function(*arguments)


def alternate(sides: Mapping[str, Make], case: Any, rounds: int, environment: Mapping[str, str] = ON_CPU,
              pythons: Mapping[str, str] | None = None) -> dict[str, list[Round]]:
  """The rounds of each side, asked in turn and in the opposite order every other time; a first one is dropped."""
  with contextlib.ExitStack() as stack:
    workers = {}
    for name, make in sides.items():
      workers[name] = Side(make, case, environment, (pythons or {}).get(name))
      stack.callback(workers[name].close)
    found = {name: [] for name in sides}
    for count in range(1 + rounds):
      for name in list(sides) if count % 2 else reversed(sides):
        found[name].append(workers[name].round())
  return {name: results[1:] for name, results in found.items()}


def median(rounds: list[Round], name: str) -> float:
  return statistics.median(result[name] for result in rounds)


def median_ratio(ours: list[Round], peer: list[Round], name: str) -> float:
  """The median of the rounds' ratios of what is called `name`."""
  return statistics.median(mine[name] / theirs[name] for mine, theirs in zip(ours, peer, strict=True))


def compare(name: str, unit: str, ours: list[Round], peer: list[Round] | None, measured: str, **rest: Any) -> Row:
  """The row of what both sides, or ours alone, measured under one name."""
  if peer is None:
    return Row(name, median(ours, measured), unit, **rest)
  return Row(name, median(ours, measured), unit, median(peer, measured), median_ratio(ours, peer, measured), **rest)


def _serve(pipe: connection.Connection, make: Make, case: Any, environment: dict[str, str]) -> None:
  os.environ.update(environment)
  _take_own_packages()
  run = None
  with contextlib.suppress(EOFError, BrokenPipeError):  # The parent has closed the pipe: it wants no more.
    while True:
      pipe.recv()
      try:
        run = run or make(case)
        pipe.send(run() | {"peak_memory": peak_memory()})
      except Exception:  # pylint: disable=broad-exception-caught
        pipe.send(traceback.format_exc())


def _take_own_packages() -> None:
  """Puts this interpreter's packages in the places of those of the one that started it, whose path it was given."""
  own = site.getsitepackages()
  sys.path[:] = [path for path in sys.path if "site-packages" not in path or path in own]
  sys.path += [path for path in own if path not in sys.path]


def peak_memory() -> float:
  """The most memory this process has had resident, in GiB."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # Linux counts in ru_maxrss what the parent had when it forked.
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def forget_peak_memory() -> None:
  """From here on the peak is that of what comes (on Linux; elsewhere it stays what it was)."""
  forget = pathlib.Path("/proc/self/clear_refs")
  if forget.exists():
    forget.write_text("5")


def timed(function: Callable[[], Any]) -> float:
  """Seconds that a call takes."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


# The machine's own limits, measured as sides among the others. Of each, the best that a library at hand gives.


def jax_product(case: Any) -> Callable[[], Round]:
  import jax
  import jax.numpy as jnp
  matrix = jnp.ones((_SIZE, _SIZE), jnp.float32)
  product = jax.jit(jnp.matmul)
  return lambda: {"flops": _product_flops(lambda: product(matrix, matrix).block_until_ready())}


def torch_product(case: Any) -> Callable[[], Round]:
  import torch
  torch.set_num_threads(os.cpu_count())
  matrix = torch.ones(_SIZE, _SIZE)
  return lambda: {"flops": _product_flops(lambda: torch.mm(matrix, matrix))}


_SIZE = 2048
PRODUCTS = {"jax_product": jax_product, "torch_product": torch_product}


def _product_flops(product: Callable[[], Any]) -> float:
  return 2 * _SIZE**3 / min(timed(product) for _ in range(10))


def product_limit(found: Mapping[str, list[Round]]) -> float:
  """FLOP/s of a float32 matrix product, from the rounds of PRODUCTS."""
  return max(median(found[name], "flops") for name in PRODUCTS)


def copy(case: Any) -> Callable[[], Round]:
  """Bytes read and written per second, in a copy far larger than any cache, by all cores."""
  import numpy as np
  cores = os.cpu_count()
  source = np.ones((cores, 2**30 // cores), np.uint8)
  target = np.zeros_like(source)
  pool = futures.ThreadPoolExecutor(cores)
  copy_all = lambda: list(pool.map(np.copyto, target, source))
  return lambda: {"bytes": 2 * source.nbytes / min(timed(copy_all) for _ in range(3))}

