"""`gpt4x report`: what a run reached, beside general-purpose compressors on the same held-out text.

It prints a table, and writes DIR/report.html, a page of its own, and DIR/loss.png.
"""

import argparse
from collections.abc import Sequence
import pathlib
import shlex
import sys

from gpt4x import configuration, run_directory, storage
from gpt4x.commands import reading
from gpt4x.errors import UserError
from gpt4x.evaluation.gallery import newest_sheet
from gpt4x.experiment import Experiment
from gpt4x.training import plots, summary
from gpt4x.training.page import page

_TEMPERATURE, _TOP_P, _MAX_TOKENS = 0.9, 0.95, 192


def run(arguments: argparse.Namespace) -> None:
  model_dir = arguments.model_dir
  experiment = reading.saved_experiment(model_dir)
  found = summary.summarize(model_dir, experiment)
  path = storage.path(model_dir) / run_directory.REPORT
  _print(found, path)
  plots.plot_losses(model_dir)
  samples, how = [], ""
  # Text drawn behind what stands before media in the held-out data would show little.
  if arguments.num_samples and (arguments.prompt or not experiment.data.modalities):
    try:
      samples = _draw(model_dir, experiment, arguments.prompt, arguments.num_samples)
      how = f"Drawn at temperature {_TEMPERATURE} with top-p {_TOP_P}; the prompts" + (
          " are gray." if arguments.prompt else ", gray, are the beginnings of held-out texts.")
    except UserError as error:
      how = f"None: {error}"
      print(f"gpt4x: warning: {run_directory.REPORT} has no samples: {error}", file=sys.stderr)
  gin_text = configuration.read(storage.path(model_dir) / run_directory.CONFIG)
  storage.write(path, page(found, experiment, gin_text, samples, how, newest_sheet(model_dir)).encode(errors="replace"))


def _print(found: summary.Summary, path: pathlib.Path) -> None:
  from rich.console import Console
  from rich.table import Table
  first, last, model_dir = found.first, found.last, found.model_dir
  table = Table(title=f"{model_dir}: {last['tokens']:,.0f} validation tokens after {last['step']} steps",
                title_justify="left", show_header=False)
  for line in (first, last):
    part = f" ({line['tokens']:,.0f} tokens)" if line.get("partial") else ""
    table.add_row(f"{found.unit}, step {line['step']}{part}", _bits(line[found.measure]))
  for name, bits in found.baselines.items():
    table.add_row(f"{found.unit}, {name}", _bits(bits))
  if found.tokens_per_second is not None and found.mfu is not None:
    table.add_row("tokens/s, median", f"{found.tokens_per_second:,.0f}")
    table.add_row("MFU, median", f"{found.mfu:.1%} of this machine's peak")
  table.add_row("the run", str(path))
  table.add_row("sample more", f"gpt4x generate --model_dir={shlex.quote(model_dir)} --prompt='def '")
  Console(width=100, markup=False, highlight=False).print(table)


def _bits(value: float | None) -> str:
  return "not finite" if value is None else f"{value:.3f}"


def _draw(model_dir: str, experiment: Experiment, prompts: Sequence[str] | None, num_samples: int) -> list:
  """Continuations of prompts, or else of the beginnings of three held-out documents."""
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.sampling import Sampling
  with configuration.placing():
    generator = Generator(model_dir, experiment, sampling=Sampling(_TEMPERATURE, top_p=_TOP_P))
  return list(generator.complete(prompts or _beginnings(experiment), num_samples=num_samples, max_tokens=_MAX_TOKENS))


def _beginnings(experiment: Experiment) -> list[str]:
  documents, vocabulary = list(experiment.data.documents(summary.SPLIT)), experiment.data.vocabulary
  some = dict.fromkeys((len(documents) * part) // 6 for part in (1, 3, 5))
  texts = [vocabulary.decode(documents[number][:120].tolist())[:100] for number in some]
  return [text[:max(text.rfind(" "), text.rfind("\n")) + 1] or text for text in texts]
