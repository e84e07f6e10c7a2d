"""Fine-tunes a model on a task with inputs and targets: a function's first line, and what its docstring says.

    python examples/train.py                    # First: the model to start from, runs/example
    python examples/fine_tune.py                # 40 steps, about a minute on two CPU cores
    gpt4x generate --model_dir=runs/docstrings --prompt="def read_text(path):" --temperature=0.5

It prints the loss of the docstrings before and after, and which share of the parameters was trained: attention's.
"""

import argparse
import importlib
import inspect
import json
import sys

import jax
import seqio
import tensorflow as tf

from gpt4x.commands import reading
from gpt4x.training.loop import train
from gpt4x.training.metrics import read_metrics
from gpt4x.training.state import select

MODULES = {
    "train": ("difflib", "inspect", "pathlib", "tarfile", "typing", "zipfile"),
    "validation": ("shutil", "tempfile"),
}


def pairs(split: str) -> dict[str, list[str]]:
  """Every function with a docstring in some modules of the standard library."""
  found: dict[str, list[str]] = {"inputs": [], "targets": []}
  for module in map(importlib.import_module, MODULES[split]):
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    for place in (module, *classes):
      for name, function in inspect.getmembers(place, inspect.isfunction):
        if function.__doc__ and function.__module__ == module.__name__:
          found["inputs"].append(f"def {name}{inspect.signature(function)}:")
          found["targets"].append(function.__doc__.strip().split("\n")[0])
  return found


def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
  del shuffle_files, seed  # The training order is drawn downstream.
  return tf.data.Dataset.from_tensor_slices(pairs(split))


# As in any project that uses seqio. In a module of its own, which a gin file imports, `gpt4x train` and `gpt4x eval`
# would find the task by its name as well.
seqio.TaskRegistry.add(
    "docstrings",
    source=seqio.FunctionDataSource(dataset, splits=tuple(MODULES)),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": seqio.Feature(seqio.ByteVocabulary(), add_eos=False),
                     "targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)},
)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--init_from", default="runs/example", help="the run to start from")
  parser.add_argument("--model_dir", default="runs/docstrings")
  parser.add_argument("--steps", type=int, default=40)
  parser.add_argument("--trained", default=r"layers_\d+/attention/.*", help="names of the parameters that are trained")
  parser.add_argument("--gin", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
  arguments = parser.parse_args()

  config = reading.new_run(["experiments/stdlib_tiny.gin"], [
      "MIXTURE_OR_TASK_NAME='docstrings'",
      "TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 64}",
      "DatasetConfig.feature_converter='prefix_lm'",  # Inputs see each other in both directions and are not predicted.
      "DatasetConfig.pack=True",  # Several examples a row; none sees another.
      f"train.init_from={arguments.init_from!r}",  # The parameters, and nothing else of that run.
      f"train.trained={arguments.trained!r}",  # The rest stays as it is and has no optimizer state.
      "OPTIMIZER=@adamw()", "adamw.learning_rate=1e-3", f"TRAIN_STEPS={arguments.steps}", *arguments.gin])

  status = train(arguments.model_dir, config)

  shapes, _ = config.experiment.model.declared
  size = lambda tree: sum(shape.size for shape in jax.tree.leaves(tree))
  trained, _ = select(shapes, config.step.trained)
  print(f"trained {size(trained):,} of {size(shapes):,} parameters")
  for line in read_metrics(arguments.model_dir):
    if line["split"] == "validation":
      print(json.dumps({name: line[name] for name in ("step", "loss", "accuracy")}))
  return status


if __name__ == "__main__":
  sys.exit(main())
