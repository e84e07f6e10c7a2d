"""The pipeline, in `gpt4x train` of experiments/stdlib_tiny.gin: what feeds the model, and what saving it costs.

`pipeline/stream` is the tokens/s of the stream alone beside those of the training that reads it. `pipeline/input_wait`
is the share of its steps that the loop waits for a batch, the first left out. `pipeline/checkpoint` saves every tenth
step; what those steps and the ones after take beyond the median, spread over the 1,000 steps of the default period
(gin_configs/runs/train.gin), is given as a share of a step.
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import os
import pathlib
import statistics
import tempfile

from benchmarks import harness
from benchmarks.harness import Round, Row

EXPERIMENT = "experiments/stdlib_tiny.gin"
_BATCHES, _STEPS = 500, 60  # Of a round.
_PERIOD, _DEFAULT_PERIOD = 10, 1000


def rows(rounds: int) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as folder:
    found = harness.alternate({"stream": stream, "training": training}, folder, rounds)
  yield harness.compare("pipeline/stream", "tokens/s", found["stream"], found["training"], "tokens",
                        goal="ratio >= 20")
  for name, bound in (("input_wait", 0.01), ("checkpoint", 0.05)):
    yield Row(f"pipeline/{name}", harness.median(found["training"], name), "of a step", goal=f"value < {bound}")


def stream(folder: str) -> Callable[[], Round]:
  _prepare(folder)
  from gpt4x.commands import reading

  experiment = reading.new_run([EXPERIMENT]).experiment
  dataset, batches = experiment.dataset, experiment.data.train()

  def read():
    for _ in range(_BATCHES):
      next(batches)

  return lambda: {"tokens": _BATCHES * dataset.batch_size * dataset.segment_length / harness.timed(read)}


def training(folder: str) -> Callable[[], Round]:
  _prepare(folder)
  from gpt4x import cli
  from gpt4x.training.metrics import read_metrics

  def train() -> Round:
    with tempfile.TemporaryDirectory() as model_dir, contextlib.redirect_stderr(io.StringIO()) as printed:
      flags = {"TRAIN_STEPS": _STEPS, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": _PERIOD, "train.log_period": 1}
      status = cli.main(["train", f"--gin_file={EXPERIMENT}", f"--model_dir={model_dir}",
                         *(f"--gin.{name}={value}" for name, value in flags.items())])
      lines = read_metrics(model_dir)
    if status:
      raise RuntimeError(printed.getvalue())
    steps = [1 / line["steps_per_second"] for line in lines[1:]]
    waits = [line["input_wait"] / line["steps_per_second"] for line in lines[1:]]
    step = statistics.median(steps)
    saves = (_STEPS - 1) // _PERIOD  # Not the last, after which there is no step.
    return {
        "tokens": statistics.median(line["tokens_per_second"] for line in lines[1:]),
        "input_wait": sum(waits) / sum(steps),
        "checkpoint": (sum(steps) - len(steps) * step) / saves / (_DEFAULT_PERIOD * step),
    }

  return train


def _prepare(folder: str) -> None:
  os.environ |= {"GPT4X_DATA_DIR": folder, "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder) / "compiled")}
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # For TensorFlow's greetings; errors go to the parent.
