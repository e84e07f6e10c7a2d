"""A run as one HTML page that needs nothing else: no network, no script, no other file."""

import base64
from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

from gpt4x import __version__, html_page
from gpt4x.experiment import Experiment
from gpt4x.html_page import count, text
from gpt4x.inference.text import Completion
from gpt4x.training import plots
from gpt4x.training.summary import Summary

# Colors of the figure that stand for variables of the style sheet.
_VARIABLES = {"ink": "#010101", "faint": "#020202", "paper": "#030303", "train": "#040404", "other": "#050505"}


def page(summary: Summary, experiment: Experiment, gin_text: str, samples: Sequence[Completion] = (),
         how: str = "", sheet: tuple[int, bytes] | None = None) -> str:
  """The page of a run.

  `how` says of the samples how they were drawn, or why there are none; `sheet` is a step and the PNG of its media.
  """
  name = pathlib.PurePath(summary.model_dir).name or summary.model_dir
  parts = [
      f"<h1>{text(name)}</h1>", _lead(summary, experiment), _tiles(summary), _figure(summary),
      f"<h2>{'Beside compressors' if summary.baselines else 'Held out'}</h2>", _comparison(summary), *_media(sheet),
      *_samples(samples, how),
      "<h2>The run</h2>", html_page.table(_facts(summary, experiment)),
      f"<details><summary>Configuration (gin)</summary><pre>{text(gin_text.strip())}</pre></details>"]
  return html_page.page(name, parts)


def _lead(summary: Summary, experiment: Experiment) -> str:
  config, dataset = experiment.model.config, experiment.dataset
  duration = f" in <b>{_duration(summary.seconds)}</b>" if summary.seconds else ""
  hardware = summary.environment.get("hardware")
  return (f'<p class="lead">A Transformer-XL of <b>{count(summary.num_params)} parameters</b>, {config.num_layers}'
          f" layers of width {config.embed_dim}, trained on <b>{count(summary.tokens)} tokens</b> of"
          f" {text(dataset.mixture_or_task_name)}{duration}{f' on {text(hardware)}' if hardware else ''}.</p>")


def _tiles(summary: Summary) -> str:
  tiles = [(summary.unit, _bits(summary.last[summary.measure]))]
  tiles += [(f"{summary.unit} of {name}", _bits(bits)) for name, bits in list(summary.baselines.items())[:1]]
  tiles += [("steps", f"{summary.steps:,}")]
  if summary.tokens_per_second is not None:
    tiles += [("tokens a second", f"{summary.tokens_per_second:,.0f}")]
  if summary.mfu is not None:
    tiles += [("MFU", f"{summary.mfu:.1%}")]
  return html_page.tiles(tiles)


def _figure(summary: Summary) -> str:
  drawn = plots.figure(summary.metrics, summary.baselines, _VARIABLES)
  if drawn is None:  # Nothing was finite.
    return ""
  notes = ["Training loss is smoothed over about a twentieth of the run; the raw values are faint."]
  if any(line.get("partial") for line in summary.metrics):
    notes.append("Hollow points are evaluations of a part of the split, the same part each time.")
  return f"<figure>{plots.svg(drawn, _VARIABLES)}<figcaption>{text(' '.join(notes))}</figcaption></figure>"


def _comparison(summary: Summary) -> str:
  """Bars of what the run is judged by. The first evaluation goes beyond them, so it sets no scale."""
  rows: list[tuple[str, str, float | None]] = [
      (" class='model'", f"this model, step {summary.last['step']:,}", summary.last[summary.measure])]
  rows += [("", name, bits) for name, bits in summary.baselines.items()]
  if summary.first is not summary.last:
    rows.append((" class='beyond'", f"this model, step {summary.first['step']:,}", summary.first[summary.measure]))
  scale = 1.15 * max([bits for kind, _, bits in rows if bits is not None and "beyond" not in kind], default=1.0)
  width = lambda bits: f"{min(100.0, 100 * (bits or 0) / scale):.1f}%"
  cells = "".join(
      f"<tr{kind}><th scope='row'>{text(label)}</th><td class='number'>{_bits(bits)}</td><td class='bar'>"
      f"<div style='width: {width(bits)}'></div></td></tr>" for kind, label, bits in rows)
  part = "a part of the" if summary.last.get("partial") else "the"
  what = "text" if summary.measure == "bits_per_byte" else "data"
  return (f"<table class='bars'>{cells}</table><p class='note'>{summary.unit.capitalize()} on {part} held-out {what}:"
          f" {summary.last['tokens']:,.0f} tokens. Less is better.</p>")


def _media(sheet: tuple[int, bytes] | None) -> Iterator[str]:
  if sheet is not None:
    step, png = sheet
    yield (f"<h2>Media</h2><figure><img alt='The contact sheet of step {step}'"
           f" src='data:image/png;base64,{base64.b64encode(png).decode()}'><figcaption>Made at step {step:,}. A"
           " number is that of a file beside the sheet.</figcaption></figure>")


def _samples(samples: Sequence[Completion], how: str) -> Iterator[str]:
  if samples or how:
    yield f"<h2>Samples</h2><p class='note'>{text(how)}</p>"
  for sample in samples:
    yield f"<pre><b>{text(sample.prompt)}</b>{text(sample.text)}</pre>"


def _facts(summary: Summary, experiment: Experiment) -> Iterator[tuple[str, str]]:
  config, dataset, environment = experiment.model.config, experiment.dataset, summary.environment
  yield "directory", summary.model_dir
  yield "model", (f"{summary.num_params:,} parameters; {config.num_layers} layers, width {config.embed_dim},"
                  f" {config.num_heads} heads; {config.vocab_size} ids; {config.compute_dtype}")
  yield "data", (f"{dataset.mixture_or_task_name}; {dataset.batch_size} rows of {dataset.segment_length} tokens, memory"
                 f" {experiment.memory_length} in training and {experiment.eval_memory_length} in evaluation")
  yield "trained", f"{summary.steps:,} steps, {summary.tokens:,} tokens" + (
      f", {_duration(summary.seconds)} without compilation and evaluation" if summary.seconds else "")
  if hardware := environment.get("hardware"):
    processes = environment.get("processes", 1)
    yield "hardware", f"{hardware}{f', {processes} processes' if processes != 1 else ''}"
  versions: Any = environment.get("versions", {"gpt4x": __version__})
  if isinstance(versions, Mapping):
    yield "versions", ", ".join([f"{name} {version}" for name, version in versions.items()] + (
        [f"Python {environment['python']}"] if "python" in environment else []))


def _bits(value: float | None) -> str:
  return "not finite" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours:,} h {minutes:02} min"
  return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
