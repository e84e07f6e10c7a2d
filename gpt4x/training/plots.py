"""The loss curve of a run, drawn from its metrics.jsonl."""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x import run_directory
from gpt4x.training.metrics import read_metrics

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_PANELS = {"loss": "loss (nats per token)", "bits_per_byte": "bits per byte"}


def plot_losses(model_dir: str) -> pathlib.Path | None:
  """Draws DIR/loss.png; returns its path, or None if there is nothing to draw yet."""
  drawn = figure(read_metrics(model_dir))
  if drawn is None:
    return None
  path = pathlib.Path(model_dir) / run_directory.LOSSES
  drawn.savefig(path, dpi=120)
  return path


def figure(metrics: Iterable[Mapping[str, Any]]) -> "Figure | None":
  """Training loss, smoothed over raw, and the loss and bits per byte of every other split: a panel for each metric.

  Args:
    metrics: the lines of metrics.jsonl.

  Returns:
    The figure, or None if no line has any of them.
  """
  curves: dict[str, dict[str, list[tuple[int, float]]]] = {name: {} for name in _PANELS}  # By panel, then by split.
  for line in metrics:
    for name, splits in curves.items():
      if line.get(name) is not None:
        splits.setdefault(line["split"], []).append((line["step"], line[name]))
  curves = {name: splits for name, splits in curves.items() if splits}
  if not curves:
    return None

  names = dict.fromkeys(split for splits in curves.values() for split in splits)
  colors = {split: f"C{number}" for number, split in enumerate(names)}

  from matplotlib.backends.backend_agg import FigureCanvasAgg  # Needs no display; not cheap to import.
  from matplotlib.figure import Figure
  drawn = Figure(figsize=(5.5 * len(curves), 4), layout="constrained")
  FigureCanvasAgg(drawn)
  for axes, (name, splits) in zip(drawn.subplots(1, len(curves), squeeze=False)[0], curves.items()):
    for split, points in splits.items():
      steps, values = np.array(points, float).T
      if split == "train":
        axes.plot(steps, values, color=colors[split], alpha=0.3, linewidth=0.8)
        values = _smooth(values)
        axes.plot(steps, values, color=colors[split], label=f"train, smoothed: {values[-1]:.3f} at the end")
      else:
        axes.plot(steps, values, color=colors[split], marker="o", markersize=3,
                  label=f"{split}: {values[-1]:.3f} at the end")
    axes.set(xlabel="step", ylabel=_PANELS[name])
    axes.grid(alpha=0.3)
    axes.legend()
  return drawn


def _smooth(values: np.ndarray) -> np.ndarray:
  """Exponential moving average over about a hundredth of the curve, corrected for its start."""
  decay = 1 - 1 / max(1, len(values) / 100)
  total = weight = 0.0
  averages = []
  for value in values:
    total, weight = decay * total + value, decay * weight + 1
    averages.append(total / weight)
  return np.array(averages)
