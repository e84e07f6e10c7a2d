"""Text by the model of a run."""

from collections.abc import Iterator

import gin
import numpy as np

from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.partitioning import Partitioner


@gin.configurable(allowlist=["window"])
def generate(model_dir: str, experiment: Experiment, prompt: str, *, max_tokens: int = 256,
             sampling: Sampling = Sampling(), seed: int = 0, step: int | None = None,
             window: int | None = None) -> Iterator[str]:
  """Yields the continuation of a prompt, piece by piece, until its document ends or max_tokens are drawn.

  Args:
    model_dir: a run's directory; nothing else is read.
    experiment: the run's own.
    prompt: the text to continue; may be empty.
    max_tokens: tokens to add at most.
    sampling: how tokens are drawn.
    seed: of the drawing.
    step: the checkpoint; None: the newest.
    window: latest positions that each token attends to; None: a segment and the longer of the two memories.
  """
  vocabulary = vocabularies.load(model_dir)
  config, dataset = experiment.model.config, experiment.dataset
  if window is None:
    memory = max(experiment.memory_length, experiment.eval_memory_length)
    window = memory if config.same_length and memory else memory + dataset.segment_length
  ids = vocabulary.encode(prompt)
  first_id = vocabularies.first_text_id(vocabulary)
  unknown = [i for i in ids if not first_id <= i < config.vocab_size]
  if unknown:
    raise UserError(f"the prompt has the token {unknown[0]}, outside the model's {config.vocab_size}: change it")
  _, params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), step)
  engine = Engine(experiment.model, window, vocabulary.eos_id, vocabulary.vocab_size, sampling, first_id=first_id)
  written, shown = [], vocabulary.decode(ids)
  for tokens, _ in engine(params, [ids], max_tokens, seed, bidirectional=dataset.feature_converter == "prefix_lm"):
    ended = np.flatnonzero(tokens[0] == vocabulary.eos_id)
    written += tokens[0, :ended[0] if ended.size else None].tolist()
    # All is decoded anew and what is new is shown: a piece may end within a character, or begin with a space.
    text = vocabulary.decode(ids + written).rstrip("\N{REPLACEMENT CHARACTER}")
    yield text[len(shown):]
    shown = text
