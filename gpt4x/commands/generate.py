"""`gpt4x generate`: prints the prompt and its continuation as it is drawn."""

import argparse
import itertools

from gpt4x.commands import reading
from gpt4x.inference.generate import generate
from gpt4x.inference.sampling import Sampling


def run(arguments: argparse.Namespace) -> None:
  pieces = generate(
      arguments.model_dir, reading.saved_experiment(arguments.model_dir, data=False), arguments.prompt,
      max_tokens=arguments.max_tokens, sampling=Sampling(arguments.temperature, arguments.top_k, arguments.top_p),
      seed=arguments.seed, step=arguments.step)
  first = next(pieces, "")  # Errors come before the prompt is repeated.
  for piece in itertools.chain((arguments.prompt, first), pieces, "\n"):
    print(piece, end="", flush=True)
