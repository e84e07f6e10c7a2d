"""Equal seconds: bits per byte on the default corpus after 150 s of training, beside a plain decoder's after as many.

Each side trains alone, on all cores, one after the other, with three seeds; compilation and evaluation are left out of
the seconds. Both are evaluated on all documents of the validation split, each for itself and its end included, and bits
are divided by the same bytes of text.

Ours is `gpt4x train` of the quickstart's experiment, with the steps that fit: a short run gives the first rate, each
run that of the next, and one that took above 2% too long, or 5% too short, is repeated with other steps.

The peer is benchmarks/torch_decoder.py on bytes, of our depth and width, with rotary positions and SwiGLU, as fast as
PyTorch makes it here (see `train/plain`). AdamW (b2 0.99, weight decay 0.1), gradients clipped at 1.0; its rate rises
over a twentieth of the seconds and falls to 0 at their end. It gets its own best, by its bits per byte after 50 s, of
three rates and segments of 64, 128 and 256 bytes (1,024 bytes a step), and then of what differs from that in one thing:
half and twice the rate or the bytes a step, or as many parameters as ours in all, where it has as many beside
embedding and output otherwise. Its windows slide by half their length, which is that of training or, if that is better,
twice as long. `train/equal_seconds/decoder/*` are what it chose, and `newcomer/decoder_bits_per_byte` is its figure.
"""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import math
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import harness, plain, quickstart
from benchmarks.harness import Round, Row

RATES = (1e-3, 2e-3, 4e-3)
LENGTHS = (64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How long all of it takes."""

  seconds: float = 150
  trial_seconds: float = 50
  calibration_steps: int = 60  # Of ours, for its first rate.
  variant_steps: int = plain.STEPS  # A round's, for the fastest way to make the peer's.
  rates: tuple[float, ...] = RATES
  lengths: tuple[int, ...] = LENGTHS
  around: bool = True  # Whether to try what differs from the best in one thing.


@dataclasses.dataclass(frozen=True)
class Case:
  """A training of the peer."""

  folder: str  # Of the corpus.
  config: Any  # TransformerConfig.
  variant: str  # See torch_training.py.
  seconds: float
  rate: float
  length: int
  tokens: int = 1024  # Of a step.
  seed: int = 0
  longer: bool = False  # Whether to try longer windows in evaluation.


def rows(rounds: int, settings: Settings = Settings()) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as folder:
    harness.in_a_process(quickstart.write_corpus, folder)
    best = choose(folder, settings)
    best = dataclasses.replace(best, seconds=settings.seconds, longer=True)
    theirs = [train_decoder(dataclasses.replace(best, seed=seed)) for seed in range(rounds)]
    ours = our_runs(folder, settings, rounds)
  value, error = quickstart.mean_and_error([found.bits_per_byte for found in ours])
  peer, peer_error = quickstart.mean_and_error([found["bits_per_byte"] for found in theirs])
  yield Row("train/equal_seconds", value, "bits/byte", peer, value / peer, error=error, goal="ratio < 1.0")
  spent, peers = max(found.seconds for found in ours), max(found["seconds"] for found in theirs)
  yield Row("train/equal_seconds/seconds", spent, "s", peers, spent / peers, goal="ratio <= 1.02")
  yield Row("train/equal_seconds/decoder/parameters", best.config.num_params(), "")
  yield Row("train/equal_seconds/decoder/rate", best.rate, "")
  yield Row("train/equal_seconds/decoder/segment", best.length, "bytes")
  yield Row("train/equal_seconds/decoder/step", best.tokens, "bytes")
  yield Row("train/equal_seconds/decoder/trained", harness.median(theirs, "tokens"), "bytes")
  yield Row("train/equal_seconds/decoder/window", harness.median(theirs, "window"), "bytes")
  yield Row("newcomer/decoder_bits_per_byte", peer, "bits/byte", error=peer_error)


# Ours.


def our_runs(folder: str, settings: Settings, seeds: int) -> list[quickstart.Trained]:
  """The runs of so many seeds; what the quickstart does before it trains is done once, before them."""
  for command in itertools.takewhile(lambda command: not quickstart.is_train(command), quickstart.commands("")):
    quickstart.run(command, folder)
  short = str(pathlib.Path(folder, "calibration"))
  first = min(10, settings.calibration_steps // 2)  # Steps that are left out.
  quickstart.run(_train_command(short), folder, TRAIN_STEPS=settings.calibration_steps, EVAL_PERIOD=None)
  lines = quickstart.read_metrics(short)
  rate = (settings.calibration_steps - first) / quickstart.seconds(lines, after=first)
  found: list[quickstart.Trained] = []
  held_out, tries = quickstart.read_corpus(folder, "validation"), 0
  while len(found) < seeds:
    steps, tries = math.floor(settings.seconds * rate), tries + 1
    where = str(pathlib.Path(folder, f"run{tries}"))
    quickstart.run(_train_command(where), folder, TRAIN_STEPS=steps, EVAL_PERIOD=steps, EVAL_STEPS=None,
                   SEED=len(found))
    one = quickstart.trained(quickstart.read_metrics(where))
    print(f"ours: {one}", flush=True)
    quickstart.check_bytes(one.num_bytes, held_out)
    rate = one.steps / one.seconds
    if 0.95 * settings.seconds <= one.seconds <= 1.02 * settings.seconds:
      found.append(one)
    elif tries > 3 * seeds:
      raise RuntimeError(f"{tries} runs, most of which missed {settings.seconds} s: something else uses the machine")
  return found


def _train_command(run: str) -> list[str]:
  return next(command for command in quickstart.commands(run) if quickstart.is_train(command))


# The peer.


def choose(folder: str, settings: Settings) -> Case:
  """The peer's best training by its figure after the seconds of a trial."""
  gin_file = next(flag.partition("=")[2] for flag in _train_command("") if flag.startswith("--gin_file="))
  ours = harness.in_a_process(quickstart.model_config, gin_file)
  speeds = harness.alternate(plain.peers(), plain.Case(steps=settings.variant_steps), 2)
  case = Case(folder, decoder_config(ours, tables=False), plain.fastest(speeds), settings.trial_seconds, 0.0, 0)
  tried: dict[Case, float] = {}

  def best_of(cases: list[Case]) -> Case:
    for one in cases:
      if one not in tried:
        tried[one] = train_decoder(one)["bits_per_byte"]
    return min(tried, key=tried.__getitem__)

  best = best_of([dataclasses.replace(case, rate=rate, length=length)
                  for rate in settings.rates for length in settings.lengths])
  return best_of(neighbours(best, decoder_config(ours, tables=True))) if settings.around else best


def neighbours(case: Case, whole: Any) -> list[Case]:
  """What differs from a case in its rate, its bytes a step or its sizes."""
  changes = [{"rate": case.rate / 2}, {"rate": case.rate * 2}, {"tokens": case.tokens // 2},
             {"tokens": case.tokens * 2}, {"config": whole}]
  return [dataclasses.replace(case, **change) for change in changes]


def decoder_config(ours: Any, tables: bool) -> Any:
  """The plain decoder of our depth and width with at most our parameters: in all, or beside embedding and output."""
  from benchmarks import torch_training
  shape = dataclasses.replace(
      plain.config(), vocab_size=torch_training.VOCABULARY, num_layers=ours.num_layers, embed_dim=ours.embed_dim,
      num_heads=ours.num_heads, num_kv_heads=ours.num_heads, head_dim=ours.embed_dim // ours.num_heads,
      vocab_embed_dim=ours.embed_dim, mlp_dim=16)
  room = ours.num_params() - shape.num_params()
  if not tables:
    room -= _table_params(ours) - _table_params(shape)
  return dataclasses.replace(shape, mlp_dim=16 * (1 + room // (16 * 3 * shape.embed_dim * shape.num_layers)))


def _table_params(config: Any) -> int:
  return config.num_params() - dataclasses.replace(
      config, vocab_size=1, adaptive_cutoffs=()).num_params()


def train_decoder(case: Case) -> Round:
  side = harness.Side(decoder, case)
  try:
    found = side.round()
  finally:
    side.close()
  print(f"decoder: {case.config.num_params():,} parameters, {case.variant}, rate {case.rate:g}, {case.length} bytes,"
        f" {case.tokens} a step, seed {case.seed}: {found}", flush=True)
  quickstart.check_bytes(int(found["bytes"]), quickstart.read_corpus(case.folder, "validation"))
  return found


def decoder(case: Case) -> Callable[[], Round]:
  """Trains for the seconds, then evaluates."""
  import numpy as np

  from benchmarks import torch_training
  rows = case.tokens // case.length
  trainer = torch_training.Trainer(
      case.config, rows, case.length, case.variant, weight_decay=0.1, b2=0.99, seed=case.seed)
  stream = torch_training.stream_of(quickstart.read_corpus(case.folder, "train"))
  held_out = quickstart.read_corpus(case.folder, "validation")
  rng = np.random.default_rng(case.seed)

  def run() -> Round:
    start, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - start) / case.seconds) < 1:
      tokens = torch_training.random_rows(stream, rows, case.length, rng)
      trainer.step(tokens, case.rate * torch_training.schedule(share))
      steps += 1
    found = {"seconds": time.perf_counter() - start, "tokens": steps * rows * case.length}
    windows = [case.length, 2 * case.length] if case.longer else [case.length]
    figures = {window: torch_training.bits_per_byte(case.config, trainer.model.state_dict(), held_out, window)
               for window in windows}
    window = min(figures, key=lambda window: figures[window][0])
    return found | {"bits_per_byte": figures[window][0], "bytes": figures[window][1], "window": window}

  return run
