"""`gpt4x compress`: a smaller model of a run, and how far it says what the run's own does."""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from gpt4x import configuration, run_directory, storage
from gpt4x.commands import reading
from gpt4x.compression import calibrated, calibration, integers, pruning, quantization, structured
from gpt4x.compression.pruning import Sparsity
from gpt4x.compression.quantization import Quantization
from gpt4x.data import vocabularies
from gpt4x.errors import CommandError, UserError
from gpt4x.evaluation.likelihood import Evaluator
from gpt4x.experiment import Experiment
from gpt4x.interop import model_directories
from gpt4x.launch import lock
from gpt4x.models.language_model import LanguageModel
from gpt4x.objectives.faithfulness import Faithfulness
from gpt4x.partitioning import Partitioner

Batches = Callable[[], Iterator[Any]]


def run(arguments: argparse.Namespace) -> None:
  prunings = [_pruning(text) for text in arguments.prune]
  if not prunings and not arguments.quantize:
    raise CommandError("nothing to do: give --quantize=int8, int4 or int8-all, or --prune=METHOD:AMOUNT, or both")
  if arguments.calibrate not in (None, "round") and arguments.quantize != "int4":
    raise CommandError(f"--calibrate={arguments.calibrate} is for --quantize=int4: eight bits are the nearest integers")
  with lock.held(arguments.output):
    _compress(arguments, prunings)


def _pruning(text: str) -> tuple[str, Sparsity]:
  method, _, amount = text.partition(":")
  known = (*pruning.METHODS, *structured.PARTS)
  if method not in known:
    raise CommandError(f"--prune={text}: {method!r} is unknown: choose one of {', '.join(known)}")
  try:
    sparsity = Sparsity.of(amount)
  except UserError as error:
    raise CommandError(f"--prune={text}: {error}") from None
  if sparsity.pattern and method in structured.PARTS:
    raise CommandError(f"--prune={text}: {method} go by a share, such as {method}:25%")
  return method, sparsity


def _compress(arguments: argparse.Namespace, prunings: list[tuple[str, Sparsity]]) -> None:
  output = storage.path(arguments.output)
  for name in (run_directory.CONFIG, run_directory.CHECKPOINTS):
    if (output / name).exists():
      raise UserError(f"{output} has a run already ({name}): choose another --output")
  experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
  before = experiment.language_model
  if before.form is not None and before.form.stored:
    raise UserError(f"{arguments.model_dir} is quantized already: compress the run that it was made of")
  partitioner = Partitioner(data=1, num_devices=1)
  step, params = experiment.restore_params(arguments.model_dir, partitioner, arguments.step)
  batches = lambda: itertools.islice(_batches(experiment, partitioner), arguments.calibration_batches)
  with partitioner.activate():
    after, small = LanguageModel(before.config, form=None), params
    for method, sparsity in prunings:
      after, small = _pruned(after, small, method, sparsity, batches, experiment.eval_memory_length)
    if arguments.quantize:
      after, small = _quantized(after, small, arguments.quantize, arguments.calibrate or "gptq", batches,
                                experiment.eval_memory_length)
  # First, so that no mistake in it costs what follows.
  configuration.load_run(arguments.model_dir, arguments.gin_file, [*arguments.gin, *_bindings(before, after)])
  text = configuration.config_text()
  if arguments.max_batches:
    for line in _comparison(experiment, params, after, small, arguments):
      print(line)
  vocabulary = vocabularies.load(arguments.model_dir) if vocabularies.saved_in(arguments.model_dir) else None
  model_directories.write(output, small, vocabulary, text, step)
  print(f"wrote {arguments.output}: step {step}, {integers.num_bytes(small):,} bytes of parameters"
        f" ({integers.num_bytes(small) / integers.num_bytes(params):.3f} of {integers.num_bytes(params):,})")


def _batches(experiment: Experiment, partitioner: Partitioner) -> Iterator[Any]:
  rows = experiment.dataset.batch_size
  for batch in experiment.data.train():
    yield {name: partitioner.global_array(value, rows) for name, value in batch.items()}


def _pruned(model: LanguageModel, params: Any, method: str, sparsity: Sparsity, batches: Batches,
            memory_length: int) -> tuple[LanguageModel, Any]:
  if method in structured.PARTS:
    structured.check(model.config, method)
    assess = structured.influences if method == "layers" else structured.sensitivities
    return structured.smaller(model, params, method, sparsity.share, assess(
        model, params, batches(), memory_length))
  moments = None if method == "magnitude" else calibration.moments(model, params, batches(), memory_length)
  return model, pruning.pruned(params, moments, model.declared[1], method, sparsity)


def _quantized(model: LanguageModel, params: Any, how: str, method: calibrated.Method, batches: Batches,
               memory_length: int) -> tuple[LanguageModel, Any]:
  after = quantization.quantized_model(model, how, scaled_inputs=how == "int4" and method == "awq")
  moments = None
  if how == "int4" and method != "round":
    moments = calibration.moments(model, params, batches(), memory_length)
  else:
    method = "round"
  assert isinstance(after.form, Quantization)
  made = calibrated.quantized(after.form, params, moments, model.declared[1], method)
  return after, jax.tree.map(jnp.asarray, made)


def _bindings(before: LanguageModel, after: LanguageModel) -> list[str]:
  """What gin says of the model that is new; of its sizes all, for one left unset may follow from another."""
  found = []
  if before.config != after.config:
    for field in dataclasses.fields(after.config):
      if field.name != "moe":
        found.append(f"TransformerConfig.{field.name}={getattr(after.config, field.name)!r}")
    if after.config.moe:
      found.append(f"MoEConfig.num_experts={after.config.moe.num_experts}")
  if after.form is not None:
    found.append("LanguageModel.form=@Quantization()")
    found += [f"Quantization.{field.name}={getattr(after.form, field.name)!r}"
              for field in dataclasses.fields(Quantization)]
  return found


def _comparison(experiment: Experiment, params: Any, after: LanguageModel, small: Any,
                arguments: argparse.Namespace) -> Iterator[str]:
  """Bits per byte of both, and how far the second says what the first does, on the same text."""
  both = dataclasses.replace(experiment, model=after, objective=Faithfulness(experiment.language_model))
  evaluator = Evaluator(both, Partitioner(data=1, num_devices=1), arguments.split)
  found = evaluator(small, {"reference": params}, max_batches=arguments.max_batches)
  yield f"{'':<12}{'before':>12}{'after':>12}"
  yield f"{'loss':<12}{found['reference_loss']:>12.4f}{found['loss']:>12.4f}"
  if "bits_per_byte" in found:
    bits = found["bits_per_byte"]
    yield f"{'bits/byte':<12}{bits * found['reference_loss'] / found['loss']:>12.4f}{bits:>12.4f}"
  yield f"{'KL, nats':<12}{'':>12}{found['divergence']:>12.5f}"
  yield f"{'same top 1':<12}{'':>12}{found['agreement']:>12.2%}"
