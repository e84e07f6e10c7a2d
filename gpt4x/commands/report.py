"""`gpt4x report`: prints what a run reached, beside general-purpose compressors on the same held-out text."""

import argparse
import gzip
import lzma

from gpt4x.commands import reading
from gpt4x.errors import UserError
from gpt4x.training.metrics import read_metrics


def run(arguments: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table
  model_dir = arguments.model_dir
  experiment, metrics = reading.saved_experiment(model_dir), read_metrics(model_dir)
  evaluations = [line for line in metrics if line["split"] == "validation" and "bits_per_byte" in line]
  if not evaluations:
    raise UserError(f"{model_dir} has no validation metrics in bits per byte yet: train with EVAL_PERIOD set")
  first, last = evaluations[0], evaluations[-1]
  speeds = sorted((line["tokens_per_second"], line["mfu"]) for line in metrics if "tokens_per_second" in line)
  table = Table(title=f"{model_dir}: {last['tokens']:,.0f} validation tokens after {last['step']} steps",
                title_justify="left", show_header=False)
  table.add_row(f"bits per byte, step {first['step']}", f"{first['bits_per_byte']:.3f}")
  table.add_row(f"bits per byte, step {last['step']}", f"[bold]{last['bits_per_byte']:.3f}[/bold]")
  documents = experiment.data.documents("validation")
  text = "".join(experiment.data.vocabulary.decode(document.tolist()) for document in documents).encode()
  for name, compressed in (("gzip -9", gzip.compress(text, 9)), ("xz -9", lzma.compress(text, preset=9))):
    table.add_row(f"bits per byte, {name}", f"{8 * len(compressed) / len(text):.3f}")
  if speeds:
    tokens_per_second, mfu = speeds[len(speeds) // 2]
    table.add_row("tokens/s, median", f"{tokens_per_second:,.0f}")
    table.add_row("MFU, median", f"{mfu:.1%} of this machine's peak")
  table.add_row("the run", f"{model_dir} (loss.png, metrics.jsonl, checkpoints/)")
  table.add_row("sample more", f"gpt4x generate --model_dir={model_dir} --prompt='def '")
  Console(width=100).print(table)
