"""`gpt4x index`: makes an index of documents, which `gpt4x generate` and `gpt4x eval` put ahead of prompts."""

import argparse

from gpt4x import configuration, storage
from gpt4x.commands import reading
from gpt4x.data import document_index, prepared
from gpt4x.data.local_text import LocalText
from gpt4x.errors import CommandError


def run(arguments: argparse.Namespace) -> None:
  if storage.is_remote(arguments.output):
    raise CommandError(f"--output={arguments.output}: an index is read in place: give a folder of this machine")
  if arguments.dense and not arguments.model_dir:
    raise CommandError("--dense is by the vectors of a model: name it by --model_dir=DIR")
  document_index.package("bm25s")
  vectors = None
  if arguments.model_dir:
    experiment = reading.saved_experiment(arguments.model_dir, arguments.gin_file, arguments.gin)
    if arguments.dense:
      from gpt4x.inference.retrieval import Vectors
      document_index.package("faiss")
      vectors = Vectors(experiment, arguments.model_dir, arguments.step)
  else:
    configuration.load(arguments.gin_file, arguments.gin, partial=True)
  with configuration.placing():
    corpus = LocalText()
    corpus.find()  # What is wrong with the files comes before anything is written.
    with prepared.new_folder(storage.path(arguments.output)) as folder:
      model = {"step": vectors.step, "checksum": vectors.checksum} if vectors else None
      count = document_index.build(folder, document_index.documents(corpus), vectors, model)
  print(f"wrote {arguments.output}: {count:,} documents")
