"""`gpt4x plan`: plans what `gpt4x train` with these files would do, or `gpt4x generate` with their model."""

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import Any

import gin
import jax

from gpt4x import configuration, partitioning
from gpt4x.commands import reading
from gpt4x.data.prepared_text import PreparedText
from gpt4x.errors import CommandError, UserError
import gpt4x.inference.generate  # noqa: F401  Gin knows its window.
from gpt4x.partitioning import Partitioner
from gpt4x.planning import compiler, decoding, plan, steps
from gpt4x.planning.chips import parse_topology, Topology


def run(arguments: argparse.Namespace) -> None:
  for flag in ("batch_size", "window"):
    if getattr(arguments, flag) is not None and not arguments.decode:
      raise CommandError(f"--{flag} is of decoding: add --decode, or leave it out; training has macros of gin for it")
  jax.config.update("jax_platforms", "cpu")  # Nothing runs, so a TPU at hand stays free.
  topology = parse_topology(arguments.topology, arguments.slices)
  try:
    devices = compiler.topology_devices(topology)
  except ImportError:
    devices = None
  with partitioning.planning_for(devices or topology.num_devices):
    (_decoding if arguments.decode else _training)(arguments, topology, compiled=devices is not None)


def _training(arguments: argparse.Namespace, topology: Topology, compiled: bool) -> None:
  config = reading.new_run(arguments.gin_file, arguments.gin)
  if gin.get_bindings("PreparedText"):
    shares = PreparedText().shares()
    with contextlib.suppress(UserError):  # A vocabulary that is not made yet can be planned with.
      shares = PreparedText().shares(config.experiment.data.vocabulary)
    print(*shares, sep="\n", file=sys.stderr)
  step = steps.TrainingStep.of(config)
  if arguments.search:
    found = list(plan.search(step, topology))
    print(_json(found) if arguments.json else plan.ranking(found, topology))
  else:
    one = plan.make(step, config.partitioner, topology, compiled=compiled)
    print(_json(one) if arguments.json else plan.describe(one))


def _decoding(arguments: argparse.Namespace, topology: Topology, compiled: bool) -> None:
  experiment = reading.new_experiment(arguments.gin_file, arguments.gin)
  window = gin.get_bindings("generate").get("window") if arguments.window is None else arguments.window
  with configuration.placing():
    step = steps.DecodingStep.of(experiment, arguments.batch_size or 16, window)
  found = decoding.plans(step, configuration.build(Partitioner), topology, compiled=compiled)
  print(_json(found) if arguments.json else decoding.describe(found))


def _json(found: Any) -> str:
  return json.dumps(list(map(dataclasses.asdict, found)) if isinstance(found, list) else dataclasses.asdict(found))
