"""`gpt4x report`: prints what a run reached, beside general-purpose compressors on the same held-out text."""

import argparse
from collections.abc import Iterator
import contextlib
import importlib
import shlex

from gpt4x.commands import reading
from gpt4x.errors import UserError
from gpt4x.training.metrics import read_metrics


def run(arguments: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table
  model_dir = arguments.model_dir
  experiment, metrics = reading.saved_experiment(model_dir), read_metrics(model_dir)
  evaluations = [line for line in metrics
                 if line["split"] == "validation" and {"bits_per_byte", "tokens"} <= line.keys()]
  if not evaluations:
    raise UserError(f"{model_dir} has no validation metrics in bits per byte yet: train with EVAL_PERIOD set")
  first, last = evaluations[0], evaluations[-1]
  speeds = sorted((line["tokens_per_second"], line["mfu"]) for line in metrics
                  if {"tokens_per_second", "mfu"} <= line.keys())
  table = Table(title=f"{model_dir}: {last['tokens']:,.0f} validation tokens after {last['step']} steps",
                title_justify="left", show_header=False)
  table.add_row(f"bits per byte, step {first['step']}", _bits(first["bits_per_byte"]))
  table.add_row(f"bits per byte, step {last['step']}", _bits(last["bits_per_byte"]))
  documents = experiment.data.documents("validation")
  text = "".join(experiment.data.vocabulary.decode(document.tolist()) for document in documents)
  for name, bits in _compressed(text.encode(errors="surrogatepass")):
    table.add_row(f"bits per byte, {name}", _bits(bits))
  if speeds:
    tokens_per_second, mfu = speeds[len(speeds) // 2]
    table.add_row("tokens/s, median", f"{tokens_per_second:,.0f}")
    table.add_row("MFU, median", f"{mfu:.1%} of this machine's peak")
  table.add_row("the run", f"{model_dir} (loss.png, metrics.jsonl, checkpoints/)")
  table.add_row("sample more", f"gpt4x generate --model_dir={shlex.quote(model_dir)} --prompt='def '")
  Console(width=100, markup=False, highlight=False).print(table)


def _bits(value: float | None) -> str:
  return "not finite" if value is None else f"{value:.3f}"


def _compressed(text: bytes) -> Iterator[tuple[str, float]]:
  """Bits per byte of the compressors that this Python was built with."""
  for name, module, options in (("gzip -9", "gzip", {"compresslevel": 9}), ("xz -9", "lzma", {"preset": 9})):
    with contextlib.suppress(ImportError):
      compressed = importlib.import_module(module).compress(text, **options)
      yield name, 8 * len(compressed) / max(len(text), 1)
