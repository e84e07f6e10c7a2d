"""How likely a run's model finds answers behind prompts; called in a process of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

ROWS = 30  # Scored together.


def log_likelihoods(directory: str, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], said: int | None = None
                    ) -> np.ndarray:
  """The log-likelihood of the ids of each answer behind those of its prompt, in nats, with no memory before.

  With `said`, prompts are inputs of examples, whose tokens see each other; so many at their ends begin what is said.
  """
  import jax

  from gpt4x.commands import reading
  from gpt4x.data import vocabularies
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(directory, data=False)
  start = vocabularies.start_id(vocabularies.load(directory))
  model = experiment.language_model
  _, params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1))
  length = max(len(prompt) + len(answer) for prompt, answer in pairs)

  @jax.jit
  def scores(tokens, targets, counted, real, both_ways):
    output = model.forward(params, tokens, model.initial_memory(len(tokens), 0), real, both_ways)
    return (model.token_log_probs(params, output.hidden, targets) * counted).sum(-1)

  found = list[Any]()
  for first in range(0, len(pairs), ROWS):
    group = pairs[first:first + ROWS]
    tokens, targets, counted, real, both_ways = (np.zeros((ROWS, length), np.int32) for _ in range(5))
    for row, (prompt, answer) in enumerate(group):
      text = [*prompt, *answer]
      targets[row, :len(text)], tokens[row, :len(text)] = text, [start, *text[:-1]]
      counted[row, len(prompt):len(text)], real[row, :len(text)] = 1, 1
      both_ways[row, :0 if said is None else 1 + len(prompt) - said] = 1  # With the start.
    found += np.asarray(scores(tokens, targets, counted, real, both_ways))[:len(group)].tolist()
  return np.array(found)
