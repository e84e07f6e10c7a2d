"""`gpt4x teach`: writes what a model says of each token of a corpus, for students that train without it."""

import argparse

from gpt4x import storage
from gpt4x.checkpoints.reader import Reader
from gpt4x.commands import reading
from gpt4x.data import teacher_cache
from gpt4x.data.teacher_cache import Teacher
from gpt4x.errors import CommandError, UserError
from gpt4x.inference import teaching
from gpt4x.launch import lock


def run(arguments: argparse.Namespace) -> None:
  if storage.is_remote(arguments.output):
    raise CommandError(f"--output={arguments.output}: rows are read in place: give a folder of this machine")
  with lock.held(arguments.output):
    _teach(arguments)


def _teach(arguments: argparse.Namespace) -> None:
  if teacher_cache.spec_of(arguments.output):
    raise UserError(f"{arguments.output} has what a teacher says already: choose another --output, or delete it")
  experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
  experiment.check_vocabulary()
  size = experiment.language_model.config.vocab_size
  if arguments.top_k > size:
    raise CommandError(f"--top_k={arguments.top_k} is more than the {size} ids that there are: choose at most as many")
  partitioner = teaching.mesh_for(experiment.dataset.batch_size)
  step, checksum = Reader(arguments.model_dir).params_checksum(arguments.step)
  _, params = experiment.restore_params(arguments.model_dir, partitioner, step)
  place = arguments.model_dir
  if not storage.is_remote(place):
    place = str(storage.path(place).resolve())
  teacher = Teacher(place, step, checksum, size, arguments.top_k,
                    arguments.temperature, teaching.window_of(experiment))
  teaching.write(experiment, params, partitioner, arguments.split or ["train"],
                 teacher_cache.Writer(arguments.output, teacher), print)
  print(f"wrote {arguments.output}: step {step}, {teacher.bytes_per_token} bytes a token")
