"""The loss curves of a run, drawn from its metrics.jsonl."""

from collections.abc import Iterable, Mapping
import io
import itertools
import re
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x import run_directory, storage
from gpt4x.errors import printable
from gpt4x.evaluation import compressors
from gpt4x.training.metrics import read_metrics

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_PANELS = {"loss": "loss (nats per token)", "bits_per_byte": "bits per byte", "bits_per_dim": "bits per dimension",
           "bits_per_sample": "bits per sample", "psnr": "PSNR (dB)"}
_COLORS = {"ink": "#1f2328", "faint": "#8b929a", "paper": "#ffffff", "train": "#3566c8", "other": "#d4572a"}
_INTERESTING = 0.05  # The share of a run after whose first steps all of its curves are in view.

Points = list[tuple[int, float, bool]]  # (step, value, whether it is of a part of the split alone).


def plot_losses(model_dir: str) -> None:
  """Draws DIR/loss.png, unless there is nothing to draw yet; with the compressors, once `report` has run them."""
  if drawn := figure(read_metrics(model_dir), compressors.known_of(model_dir)):
    picture = io.BytesIO()
    drawn.savefig(picture, dpi=144)
    storage.write(storage.path(model_dir) / run_directory.LOSSES, picture.getvalue())


def figure(metrics: Iterable[Mapping[str, Any]], baselines: Mapping[str, float] | None = None,
           colors: Mapping[str, str] = _COLORS) -> "Figure | None":
  """The curves in lines of metrics.jsonl, a panel for each metric; None if there are none.

  Training loss is smoothed over raw; every other split has its loss and its bits per byte, with `baselines` as lines,
  or its PSNR.
  """
  curves: dict[str, dict[str, Points]] = {name: {} for name in _PANELS}  # By panel, then by split.
  for line in metrics:
    for name, splits in curves.items():
      if line.get(name) is not None:
        splits.setdefault(printable(line["split"]), []).append((line["step"], line[name], bool(line.get("partial"))))
  curves = {name: splits for name, splits in curves.items() if splits}
  labels = _PANELS | ({"loss": "loss"} if "psnr" in curves else {})  # That of a codec is no likelihood.
  if not curves:
    return None

  import matplotlib  # Takes a while, so not before there is something to draw.
  from matplotlib.figure import Figure
  others = [split for split in dict.fromkeys(itertools.chain(*curves.values())) if split != "train"]
  style: Any = {
      "text.color": colors["ink"], "axes.labelcolor": colors["ink"], "axes.edgecolor": colors["faint"],
      "xtick.color": colors["ink"], "ytick.color": colors["ink"], "grid.color": colors["faint"], "grid.alpha": 0.25,
      "axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "legend.frameon": False,
      "text.parse_math": False}
  with matplotlib.rc_context(style):
    drawn = Figure(figsize=(5.6 * len(curves), 3.9), layout="constrained", facecolor=colors["paper"])
    for axes, (name, splits) in zip(drawn.subplots(1, len(curves), squeeze=False)[0], curves.items()):
      axes.set_facecolor("none")
      in_view: list[tuple[np.ndarray, np.ndarray]] = []
      for split, points in splits.items():
        color = {"train": colors["train"], **{other: f"C{number}" for number, other in enumerate(others)},
                 **dict.fromkeys(others[:1], colors["other"])}[split]
        draw = _draw_training if split == "train" else _draw_evaluations
        in_view.append(draw(axes, split, points, color, colors["paper"]))
      levels = dict(baselines or {}) if name == "bits_per_byte" else {}
      for label, level in levels.items():
        axes.axhline(level, color=colors["ink"], linewidth=1, linestyle=(0, (5, 3)), alpha=0.6)
        axes.annotate(f"{printable(label)}: {level:.3f}", (0, level), (4, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=9, color=colors["ink"])
      _set_view(axes, in_view, list(levels.values()), colors["ink"])
      axes.set(xlabel="step", ylabel=labels[name])
      axes.grid(axis="y")
      axes.legend()
  return drawn


def svg(drawn: "Figure", colors: Mapping[str, str]) -> str:
  """A figure as an element for an HTML page, whose texts have the page's font and whose colors are CSS variables.

  Args:
    drawn: a figure whose colors are those of `colors`.
    colors: a color each for the names of the variables.
  """
  import matplotlib
  content = io.StringIO()
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt4x"}):
    drawn.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  element = content.getvalue()
  element = re.sub(r"<metadata>.*?</metadata>", "", element[element.index("<svg "):], flags=re.DOTALL)
  element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)  # HTML knows them.
  element = re.sub(r"font-family: [^;\"]*|font: (\d+px) [^;\"]*",
                   lambda found: f"font-size: {found[1]}" if found[1] else "font-family: inherit", element)
  for name, color in colors.items():
    element = element.replace(color, f"var(--{name})")
  return element


def _draw_training(axes: "Axes", split: str, points: Points, color: str, paper: str) -> tuple[np.ndarray, np.ndarray]:
  del paper
  steps, values, _ = np.array(points, float).T
  axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
  steps, values = _smooth(steps, values)
  axes.plot(steps, values, color=color, linewidth=1.8, label=f"{split}, smoothed: {values[-1]:.3f} at the end")
  return steps, values


def _draw_evaluations(axes: "Axes", split: str, points: Points, color: str,
                      paper: str) -> tuple[np.ndarray, np.ndarray]:
  """A line with points; those of a part of the split are hollow."""
  steps, values, partial = np.array(points, float).T
  label = f"{split}: {values[-1]:.3f} at the end{' (a part of it)' if partial[-1] else ''}"
  axes.plot(steps, values, color=color, linewidth=1.4, marker="o", markersize=4, label=label)
  if partial.any():
    hollow = partial > 0
    axes.plot(steps[hollow], values[hollow], color=color, linestyle="none", marker="o", markersize=4,
              markerfacecolor=paper, label="" if partial.all() else f"{split}: a part of it")
  return steps, values


def _set_view(axes: "Axes", curves: list[tuple[np.ndarray, np.ndarray]], levels: list[float], ink: str) -> None:
  """Shows all but what the first steps are above the rest, of which it says how high it begins."""
  last = max(steps[-1] for steps, _ in curves)
  late = np.concatenate([values[steps >= _INTERESTING * last] for steps, values in curves] + [np.array(levels)])
  every = np.concatenate([values for _, values in curves])
  low, high = late.min(), late.max()
  few = min(len(values) for _, values in curves) < 3  # Two points are to be seen, both of them.
  margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
  if few or every.max() - low < 2 * (high - low) + margin:
    return
  axes.set_ylim(min(low, axes.dataLim.y0) - margin, high + 4 * margin)
  steps, values = max(curves, key=lambda curve: curve[1].max())
  at, top = int(values.argmax()), axes.get_ylim()[1]
  enters = max(np.interp(top, values[[i + 1, i]], steps[[i + 1, i]])
               for steps, values in curves for i in range(len(values) - 1) if values[i] > top >= values[i + 1])
  axes.annotate(f"↑ {values[at]:.2f} at step {steps[at]:.0f}", (enters, top), (7, -9), textcoords="offset points",
                fontsize=9, color=ink)


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Steps, at most a thousand, and the mean of the values around each: about a twentieth of the run, less at its start.

  A Gaussian window, centred, so the curve does not lag. At the start, where loss falls fast, the window is as wide as
  a part of the steps that are done.
  """
  parts = min(len(steps), 1000)
  mean = lambda numbers: np.array([part.mean() for part in np.array_split(numbers, parts)])
  at = mean(steps)
  apart = max(np.diff(at).min(), 1e-9) if parts > 1 else 1.0
  width = np.maximum(np.minimum((at - at[0]) / 10, (at[-1] - at[0]) / 40), apart / 4)
  weights = np.exp(-0.5 * ((at[None] - at[:, None]) / width[:, None])**2)
  return at, weights @ mean(values) / weights.sum(1)
