"""Samples from a run with the engine itself, and looks inside of the model.

    python examples/train.py                    # First: the model, runs/example
    python examples/sample.py                   # half a minute on two CPU cores

It prints three continuations, each with the log-probability that the model gives its tokens, the third of them put in
the place of the first while the second goes on; then how large the residual stream is behind each layer.
"""

import argparse

import jax.numpy as jnp
import numpy as np

from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.partitioning import Partitioner


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model_dir", default="runs/example")
  parser.add_argument("--tokens", type=int, default=32, help="that are decoded between two looks at the rows")
  arguments = parser.parse_args()

  # A run's directory holds all that is needed: the configuration, the vocabulary and the parameters.
  experiment = reading.saved_experiment(arguments.model_dir)
  vocabulary = vocabularies.load(arguments.model_dir)
  step, params = experiment.restore_params(arguments.model_dir, Partitioner(data=1, num_devices=1))
  model = experiment.model
  print(f"{arguments.model_dir}, step {step}: {model.config.num_params():,} parameters")

  # The engine keeps the latest `window` positions of each row, and every token costs the same.
  engine = Engine(model, window=192, eos_id=vocabulary.eos_id, num_ids=vocabulary.vocab_size,
                  sampling=Sampling(temperature=0.8, top_p=0.95), chunk_length=arguments.tokens)
  prompts = ["def main(", "import os\n"]
  slots = engine.start(params, engine.prefill(params, [vocabulary.encode(prompt) for prompt in prompts]))

  # All rows go on together, a chunk of tokens at a time.
  first, slots = engine.step(params, slots)
  show(vocabulary, prompts[0], first.tokens[0], first.log_probs[0])

  # A new prompt takes the place of row 0; row 1 goes on as if nothing had happened.
  newcomer = "class Server"
  slots = engine.insert(params, slots, 0, engine.prefill(params, [vocabulary.encode(newcomer)]))
  second, slots = engine.step(params, slots)
  show(vocabulary, prompts[1], np.concatenate([first.tokens[1], second.tokens[1]]),
       np.concatenate([first.log_probs[1], second.log_probs[1]]))
  show(vocabulary, newcomer, second.tokens[0], second.log_probs[0])

  # A forward pass gives any activations that are asked for by name, [B, L, D] each.
  names = ["embedding", *(f"layers.{layer}.output" for layer in range(model.config.num_layers))]
  tokens = jnp.array([vocabulary.encode("for line in file:\n")])
  output = model.forward(params, tokens, model.initial_memory(1), capture=names)
  for name in names:
    print(f"{name}: {jnp.sqrt(jnp.mean(output.captures[name] ** 2)):.2f}")


def show(vocabulary, prompt: str, tokens: np.ndarray, log_probs: np.ndarray) -> None:
  """Prints a continuation up to where its document ends, and its mean log-probability."""
  ends = np.flatnonzero(tokens == vocabulary.eos_id)
  count = ends[0] + 1 if ends.size else len(tokens)
  print(f"{prompt + vocabulary.decode(tokens[:count].tolist())!r}: {log_probs[:count].mean():.2f} nats a token")


if __name__ == "__main__":
  main()
