"""`gpt4x plan`: plans what `gpt4x train` with these files would do."""

import argparse
import dataclasses
import json

import jax

from gpt4x import partitioning
from gpt4x.commands import reading
from gpt4x.planning import compiler, plan
from gpt4x.planning.chips import parse_topology


def run(arguments: argparse.Namespace) -> None:
  jax.config.update("jax_platforms", "cpu")  # Nothing runs, so a TPU at hand stays free.
  topology = parse_topology(arguments.topology, arguments.slices)
  try:
    devices = compiler.topology_devices(topology)
  except ImportError:
    devices = None
  with partitioning.planning_for(devices or topology.num_devices):
    config = reading.new_run(arguments.gin_file, arguments.gin)
    step = compiler.Step.of(config)
    plans = list(plan.search(step, topology)) if arguments.search else [
        plan.make(step, config.partitioner, topology, compiled=devices is not None)]
  if arguments.json:
    print(json.dumps([dataclasses.asdict(one) for one in plans] if arguments.search else dataclasses.asdict(plans[0])))
  else:
    print(plan.ranking(plans, topology) if arguments.search else plan.describe(plans[0]))
