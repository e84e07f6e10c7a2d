"""`gpt4x links`: link prediction by the model of a run, on held-out triples of a graph."""

import argparse
import json
import sys
import time

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.data.local_graph import LocalGraph
from gpt4x.evaluation import link_prediction
from gpt4x.evaluation.link_prediction import LinkPredictor
from gpt4x.partitioning import Partitioner

_EVERY = 30  # Seconds between two lines of how far it has come.


def run(arguments: argparse.Namespace) -> None:
  experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
  with configuration.placing():
    graph = configuration.build(LocalGraph).read()
    questions = link_prediction.sampled(graph, arguments.split, arguments.max_triples, arguments.seed)
  predictor = LinkPredictor(experiment, vocabularies.load(arguments.model_dir), graph, arguments.beam,
                            arguments.normalize)
  predictor.prompt(questions[0])  # A vocabulary that does not do is told of before anything is read.
  step, params = experiment.restore_params(arguments.model_dir, Partitioner(data=1, num_devices=1), arguments.step)
  last = time.monotonic()

  def between(done: int) -> None:
    nonlocal last
    if time.monotonic() - last > _EVERY:
      last = time.monotonic()
      print(f"{done:,} of {len(questions):,} questions", file=sys.stderr, flush=True)

  found = {"step": step, "split": arguments.split}
  found |= link_prediction.measures(graph, questions, predictor.ranks(params, questions, between))
  if arguments.json:
    print(json.dumps(found))
  else:
    for name, value in found.items():
      print(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}")
