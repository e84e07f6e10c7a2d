"""What a run has reached, in figures, from its metrics and its configuration."""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
from typing import Any

from gpt4x import run_directory, storage
from gpt4x.errors import UserError
from gpt4x.evaluation import compressors
from gpt4x.experiment import Experiment
from gpt4x.training.metrics import read_metrics

SPLIT = "validation"
# What a run is judged by: the first of them that it has, and its name.
MEASURES = {"bits_per_byte": "bits per byte", "bits_per_dim": "bits per dimension",
            "bits_per_sample": "bits per sample", "loss": "nats per token"}


@dataclasses.dataclass(frozen=True)
class Summary:
  """The figures of a run.

  Attributes:
    model_dir: the run's directory.
    metrics: the lines of its metrics.jsonl.
    first, last: its first and its last evaluation.
    baselines: bits per byte of compressors on the text of the whole split.
    num_params: parameters of the model.
    steps: optimizer steps that were reported.
    tokens: how many were trained on.
    seconds: of training, without compilation and evaluation; None where no line has a rate.
    tokens_per_second, mfu: their medians; None where no line has them.
    environment: what environment.json says; empty for a run of another loop or version.
    measure: one of MEASURES.
  """

  model_dir: str
  metrics: list[dict[str, Any]]
  first: Mapping[str, Any]
  last: Mapping[str, Any]
  baselines: Mapping[str, float]
  num_params: int
  steps: int
  tokens: int
  seconds: float | None
  tokens_per_second: float | None
  mfu: float | None
  environment: Mapping[str, Any]
  measure: str = "bits_per_byte"

  @property
  def unit(self) -> str:
    return MEASURES[self.measure]


def summarize(model_dir: str, experiment: Experiment) -> Summary:
  """Reads a run, and compresses the text that it is judged by, where that has not been done yet."""
  model, metrics, dataset = experiment.language_model, read_metrics(model_dir), experiment.dataset
  evaluations = [line for line in metrics if line["split"] == SPLIT and "tokens" in line
                 and MEASURES.keys() & line.keys()]
  if not evaluations:
    raise UserError(f"{model_dir} has no validation metrics yet: train with EVAL_PERIOD set")
  measure = next(name for name in MEASURES if name in evaluations[-1])
  evaluations = [line for line in evaluations if measure in line]
  baselines = {}  # Compressors are of text alone.
  if measure == "bits_per_byte" and not experiment.data.modalities:
    baselines = compressors.of_split(model_dir, experiment.data, SPLIT)
  speeds = sorted((line["tokens_per_second"], line["mfu"]) for line in metrics
                  if line.get("tokens_per_second") is not None and line.get("mfu") is not None)
  tokens_per_second, mfu = speeds[len(speeds) // 2] if speeds else (None, None)
  seconds, done = 0.0, 0
  for line in metrics:
    if line.get("steps_per_second"):
      seconds, done = seconds + (line["step"] - done) / line["steps_per_second"], line["step"]
  steps = max(line["step"] for line in metrics)
  environment: dict[str, Any] = {}
  with contextlib.suppress(OSError, ValueError):
    found = json.loads(storage.read(storage.path(model_dir) / run_directory.ENVIRONMENT) or b"")
    environment = found if isinstance(found, dict) else {}
  return Summary(
      model_dir, metrics, evaluations[0], evaluations[-1], baselines,
      model.config.num_params(), steps, steps * dataset.batch_size * dataset.segment_length,
      seconds or None, tokens_per_second, mfu, environment, measure)
