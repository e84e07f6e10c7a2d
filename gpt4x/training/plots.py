"""The loss curve of a run, drawn from its metrics.jsonl."""

from collections.abc import Iterable, Mapping
import io
import itertools
from typing import Any, TYPE_CHECKING

import numpy as np

from gpt4x import run_directory, storage
from gpt4x.training.metrics import read_metrics

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_PANELS = {"loss": "loss (nats per token)", "bits_per_byte": "bits per byte"}


def plot_losses(model_dir: str) -> None:
  """Draws DIR/loss.png, unless there is nothing to draw yet."""
  if drawn := figure(read_metrics(model_dir)):
    picture = io.BytesIO()
    drawn.savefig(picture, dpi=120)
    storage.write(storage.path(model_dir) / run_directory.LOSSES, picture.getvalue())


def figure(metrics: Iterable[Mapping[str, Any]]) -> "Figure | None":
  """The curves in lines of metrics.jsonl, a panel for each metric; None if there are none.

  Training loss is smoothed over raw; every other split has its loss and its bits per byte.
  """
  curves: dict[str, dict[str, list[tuple[int, float]]]] = {name: {} for name in _PANELS}  # By panel, then by split.
  for line in metrics:
    for name, splits in curves.items():
      if line.get(name) is not None:
        splits.setdefault(line["split"], []).append((line["step"], line[name]))
  curves = {name: splits for name, splits in curves.items() if splits}
  if not curves:
    return None

  colors = {split: f"C{number}" for number, split in enumerate(dict.fromkeys(itertools.chain(*curves.values())))}
  from matplotlib.figure import Figure  # Takes a while, so not before there is something to draw.
  drawn = Figure(figsize=(5.5 * len(curves), 4), layout="constrained")
  for axes, (name, splits) in zip(drawn.subplots(1, len(curves), squeeze=False)[0], curves.items()):
    for split, points in splits.items():
      steps, values = np.array(points, float).T
      if split == "train":
        axes.plot(steps, values, color=colors[split], alpha=0.3, linewidth=0.8)
        values, kind, style = _smooth(values), "train, smoothed", {}
      else:
        kind, style = split, {"marker": "o", "markersize": 3}
      axes.plot(steps, values, color=colors[split], label=f"{kind}: {values[-1]:.3f} at the end", **style)
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
