"""`gpt4x generate`."""

import argparse

from gpt4x.commands import reading
from gpt4x.inference.generate import generate
from gpt4x.inference.sampling import Sampling


def run(arguments: argparse.Namespace) -> None:
  """Prints the prompt and its continuation as it is drawn."""
  sampling = Sampling(temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p)
  pieces = generate(
      arguments.model_dir, reading.saved_experiment(arguments.model_dir), arguments.prompt,
      max_tokens=arguments.max_tokens, sampling=sampling, seed=arguments.seed, step=arguments.step)
  first = next(pieces, "")  # Whatever is wrong comes to light before the prompt is repeated.
  print(arguments.prompt, first, sep="", end="", flush=True)
  for piece in pieces:
    print(piece, end="", flush=True)
  print()
