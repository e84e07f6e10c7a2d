"""`gpt4x prepare`: from crawls, dumps and folders to documents that train, by the steps of a gin file."""

import argparse
import dataclasses
import inspect

from gpt4x import configuration, storage
from gpt4x.errors import CommandError
from gpt4x.preparation import engines, pipeline, report
from gpt4x.preparation.pipeline import Preparation
from gpt4x.preparation.progress import Progress


def run(arguments: argparse.Namespace) -> None:
  if arguments.beam_option and not arguments.runner:
    raise CommandError("--beam_option is for Apache Beam: name its --runner, such as FnApiRunner")
  configuration.load(arguments.gin_file, arguments.gin, needed=[Preparation],
                     modules=configuration.PREPARATION_MODULES)
  engine: engines.Engine = (engines.Beam(arguments.runner, arguments.beam_option) if arguments.runner else
                            engines.Pool(arguments.workers))
  with configuration.placing():
    preparation = configuration.build(Preparation)
    if not preparation.steps:
      raise CommandError("Preparation.steps is not set: give a --gin_file that does so, such as data/web.gin")
    steps = [configuration.bound(step) if inspect.isfunction(step) else step for step in preparation.steps]
    work = dataclasses.replace(preparation, steps=steps).work(arguments.input, arguments.output)
    if pipeline.begin(work):
      print(f"{arguments.output} is whole already: nothing to do")
      return
    with engine:
      for stage in work.stages():
        with Progress(stage) as progress:
          engine.run(work, stage, progress.note)
    counts = report.write(work, configuration.config_text())
    work.finish()
  print(f"wrote {storage.path(arguments.output)}: {report.summary(counts)}")
