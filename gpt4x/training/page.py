"""A run as one HTML page that needs nothing else: no network, no script, no other file."""

import base64
from collections.abc import Iterator, Mapping, Sequence
import html
import pathlib
from typing import Any

from gpt4x import __version__
from gpt4x.experiment import Experiment
from gpt4x.inference.text import Completion
from gpt4x.training import plots
from gpt4x.training.summary import Summary

# Colors of the figure that stand for variables of the style sheet.
_VARIABLES = {"ink": "#010101", "faint": "#020202", "paper": "#030303", "train": "#040404", "other": "#050505"}

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfc; --card: #f4f4f1; --ink: #1d2125; --soft: #5c646d; --faint: #c9cdd2; --line: #e4e5e2;
  --train: #2f62c9; --other: #cf4f22; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --card: #1d2126; --ink: #e8eaec; --soft: #9aa3ad; --faint: #4a525b; --line: #2b3138;
  --train: #7aa5ff; --other: #ff8a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3.5rem 1.5rem 4rem; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.7rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 3rem 0 1rem; letter-spacing: -0.01em; }
p { margin: 0 0 1rem; } .lead { font-size: 1.1rem; color: var(--soft); max-width: 46rem; }
.lead b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem; margin: 2rem 0; }
.tile { background: var(--card); border-radius: 0.6rem; padding: 0.9rem 1.1rem; display: flex; flex-direction: column;
  justify-content: space-between; }
.tile span { display: block; color: var(--soft); font-size: 0.82rem; }
.tile strong { display: block; font-size: 1.6rem; line-height: 1.3; letter-spacing: -0.02em; font-weight: 620; }
.tile.first strong { color: var(--other); }
figure { margin: 2.2rem 0 0; } figure svg { display: block; width: 100%; height: auto; }
figure img { max-width: 100%; }
figcaption, .note { color: var(--soft); font-size: 0.88rem; margin-top: 0.6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.5rem 1rem 0.5rem 0; border-bottom: 1px solid var(--line); font-weight: 400;
  vertical-align: top; }
th { color: var(--soft); white-space: nowrap; } .number { text-align: right; width: 5rem; }
.bars th { width: 14rem; } .bars .bar { padding-right: 0; vertical-align: middle; }
.bar div { height: 0.75rem; border-radius: 0.2rem; background: var(--faint); }
.model th, .model td { color: var(--ink); font-weight: 620; } .model .bar div { background: var(--other); }
.beyond .bar div { background: linear-gradient(90deg, var(--faint) 70%, transparent); }
pre { background: var(--card); border-radius: 0.6rem; padding: 1rem 1.2rem; margin: 0 0 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 0.82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre b { font-weight: 400; color: var(--soft); }
details { border-bottom: 1px solid var(--line); padding: 0.7rem 0; } summary { cursor: pointer; }
details pre { margin-top: 0.8rem; }
@media print { main { padding: 0; } .tile, pre { border: 1px solid var(--line); } }
"""


def page(summary: Summary, experiment: Experiment, gin_text: str, samples: Sequence[Completion] = (),
         how: str = "", sheet: tuple[int, bytes] | None = None) -> str:
  """The page of a run.

  `how` says of the samples how they were drawn, or why there are none; `sheet` is a step and the PNG of its media.
  """
  name = pathlib.PurePath(summary.model_dir).name or summary.model_dir
  parts = [
      f"<h1>{_text(name)}</h1>", _lead(summary, experiment), _tiles(summary), _figure(summary),
      f"<h2>{'Beside compressors' if summary.baselines else 'Held out'}</h2>", _comparison(summary), *_media(sheet),
      *_samples(samples, how),
      "<h2>The run</h2>", _table(_facts(summary, experiment)),
      f"<details><summary>Configuration (gin)</summary><pre>{_text(gin_text.strip())}</pre></details>"]
  return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
          f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_text(name)}</title>\n'
          f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n")


def _lead(summary: Summary, experiment: Experiment) -> str:
  config, dataset = experiment.model.config, experiment.dataset
  duration = f" in <b>{_duration(summary.seconds)}</b>" if summary.seconds else ""
  hardware = summary.environment.get("hardware")
  return (f'<p class="lead">A Transformer-XL of <b>{_count(summary.num_params)} parameters</b>, {config.num_layers}'
          f" layers of width {config.embed_dim}, trained on <b>{_count(summary.tokens)} tokens</b> of"
          f" {_text(dataset.mixture_or_task_name)}{duration}{f' on {_text(hardware)}' if hardware else ''}.</p>")


def _tiles(summary: Summary) -> str:
  tiles = [(summary.unit, _bits(summary.last[summary.measure]))]
  tiles += [(f"{summary.unit} of {name}", _bits(bits)) for name, bits in list(summary.baselines.items())[:1]]
  tiles += [("steps", f"{summary.steps:,}")]
  if summary.tokens_per_second is not None:
    tiles += [("tokens a second", f"{summary.tokens_per_second:,.0f}")]
  if summary.mfu is not None:
    tiles += [("MFU", f"{summary.mfu:.1%}")]
  return '<div class="tiles">' + "".join(
      f'<div class="tile{"" if number else " first"}"><span>{_text(label)}</span><strong>{_text(value)}</strong></div>'
      for number, (label, value) in enumerate(tiles)) + "</div>"


def _figure(summary: Summary) -> str:
  drawn = plots.figure(summary.metrics, summary.baselines, _VARIABLES)
  if drawn is None:  # Nothing was finite.
    return ""
  notes = ["Training loss is smoothed over about a twentieth of the run; the raw values are faint."]
  if any(line.get("partial") for line in summary.metrics):
    notes.append("Hollow points are evaluations of a part of the split, the same part each time.")
  return f"<figure>{plots.svg(drawn, _VARIABLES)}<figcaption>{_text(' '.join(notes))}</figcaption></figure>"


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
      f"<tr{kind}><th scope='row'>{_text(label)}</th><td class='number'>{_bits(bits)}</td><td class='bar'>"
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
    yield f"<h2>Samples</h2><p class='note'>{_text(how)}</p>"
  for sample in samples:
    yield f"<pre><b>{_text(sample.prompt)}</b>{_text(sample.text)}</pre>"


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


def _table(rows: Iterator[tuple[str, str]]) -> str:
  return "<table>" + "".join(
      f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows) + "</table>"


def _text(value: object) -> str:
  """Text for HTML, in which what no browser may be given is replaced."""
  return html.escape("".join(one if one in "\n\t" or one.isprintable() else "\N{REPLACEMENT CHARACTER}"
                             for one in str(value)))


def _bits(value: float | None) -> str:
  return "not finite" if value is None else f"{value:.3f}"


def _count(number: float) -> str:
  """Three digits and a word, such as 2.07 million."""
  for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
    if number >= size:
      return f"{number / size:.3g}{word}"
  return f"{number:,.0f}"


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours:,} h {minutes:02} min"
  return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
