"""`gpt4x datastore`: writes the hidden states of a split with the tokens that followed, for nearest neighbours."""

import argparse

from gpt4x import storage
from gpt4x.commands import reading
from gpt4x.data import prepared
from gpt4x.errors import CommandError
from gpt4x.inference import datastore, nearest_neighbours, teaching


def run(arguments: argparse.Namespace) -> None:
  if storage.is_remote(arguments.output):
    raise CommandError(f"--output={arguments.output}: a datastore is read in place: give a folder of this machine")
  datastore.faiss()
  experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
  experiment.check_vocabulary()
  nearest_neighbours.check(experiment)
  experiment.data.check_split(arguments.split)
  model = experiment.language_model
  layer = arguments.layer or nearest_neighbours.last_mlp_input(model)
  model.module.wanted((layer,))
  partitioner = teaching.mesh_for(experiment.dataset.batch_size)
  with prepared.new_folder(storage.path(arguments.output)) as folder:
    step, params = experiment.restore_params(arguments.model_dir, partitioner, arguments.step)
    writer = datastore.Writer(folder, int(model.config.embed_dim or 0))
    count = nearest_neighbours.build(experiment, params, partitioner, arguments.model_dir, writer, layer, step,
                                     arguments.split, arguments.max_tokens, arguments.lists)
  print(f"wrote {arguments.output}: step {step}, {count:,} tokens of {arguments.split}, {layer}")
