"""`gpt4x plan`."""

import argparse
import dataclasses
import json

import jax

from gpt4x import partitioning
from gpt4x.commands import reading
from gpt4x.planning import compiler, plan
from gpt4x.planning.chips import parse_topology


def run(arguments: argparse.Namespace) -> None:
  """Plans what `gpt4x train` with these files would do."""
  jax.config.update("jax_platforms", "cpu")  # Nothing runs; a TPU that is at hand stays free.
  topology = parse_topology(arguments.topology, arguments.slices)
  try:
    devices = compiler.topology_devices(topology)
  except ImportError:
    devices = None
  with partitioning.planning_for(devices or topology.num_devices):
    config = reading.new_run(arguments.gin_file, arguments.gin)
    step = compiler.Step.of(config)
    if arguments.search:
      plans = list(plan.search(step, topology))
      text = plan.ranking(plans, topology)
    else:
      plans = plan.make(step, config.partitioner, topology, compiled=devices is not None)
      text = plan.describe(plans)
  as_json = [dataclasses.asdict(one) for one in plans] if arguments.search else dataclasses.asdict(plans)
  print(json.dumps(as_json) if arguments.json else text)
