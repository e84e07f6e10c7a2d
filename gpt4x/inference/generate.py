"""`gpt4x generate`: continues a prompt with the model of a run."""

import gin
import numpy as np

from gpt4x import configuration
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.inference.decoding import Decoder
from gpt4x.inference.sampling import Sampling
from gpt4x.partitioning import Partitioner
from gpt4x.training.experiment import Experiment


@gin.configurable(allowlist=["experiment", "window"])
def generate(model_dir: str, prompt: str, experiment: Experiment = gin.REQUIRED, max_tokens: int = 256,
             sampling: Sampling = Sampling(), seed: int = 0, step: int | None = None, window: int | None = None):
  """Yields the continuation of a prompt, piece by piece, until its document ends or max_tokens are drawn.

  Args:
    model_dir: a run's directory; nothing else is read.
    prompt: the text to continue; may be empty.
    experiment: the run's own, from gin.
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
  first_id = 0 if vocabulary.pad_id is None else 1
  unknown = [i for i in ids if not first_id <= i < config.vocab_size]
  if unknown:
    raise UserError(f"the prompt has the token {unknown[0]}, outside the model's {config.vocab_size}: change it")
  _, params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), step)
  decoder = Decoder(experiment.model, window, vocabulary.eos_id, vocabulary.vocab_size, sampling,
                    first_id=first_id)
  written, shown = [], vocabulary.decode(ids)
  for tokens in decoder(params, [ids], max_tokens, seed, bidirectional=dataset.feature_converter == "prefix_lm"):
    ended = np.flatnonzero(tokens[0] == vocabulary.eos_id)
    written += tokens[0, :ended[0] if ended.size else None].tolist()
    # All is decoded anew and what is new is shown: a piece may end within a character, or begin with a space.
    text = vocabulary.decode(ids + written).rstrip("\N{REPLACEMENT CHARACTER}")
    yield text[len(shown):]
    shown = text


def main(model_dir: str, prompt: str, max_tokens: int, temperature: float, top_k: int | None, top_p: float | None,
         seed: int, step: int | None) -> None:
  """Prints the prompt and its continuation as it is drawn."""
  configuration.load_run(model_dir)
  pieces = generate(model_dir, prompt, max_tokens=max_tokens, sampling=Sampling(temperature, top_k, top_p), seed=seed,
                    step=step)
  first = next(pieces, "")  # Whatever is wrong comes to light before the prompt is repeated.
  print(prompt, first, sep="", end="", flush=True)
  for piece in pieces:
    print(piece, end="", flush=True)
  print()
