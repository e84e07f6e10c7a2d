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


@gin.configurable
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
    window: latest positions that each token attends to; None: as many as training ever showed the model at once,
      or its evaluation memory and a segment, if that is more.
  """
  vocabulary = vocabularies.load(model_dir)
  config, dataset = experiment.model.config, experiment.dataset
  if window is None:
    window = experiment.eval_memory_length + dataset.segment_length
    window = experiment.eval_memory_length if config.same_length else window
  ids = vocabulary.encode(prompt)
  unknown = [i for i in ids if not 0 < i < config.vocab_size]
  if unknown:
    raise UserError(f"the prompt has the token {unknown[0]}, outside the model's {config.vocab_size}: change it")
  _, params = experiment.restore_params(model_dir, Partitioner(data=1, num_devices=1), step)
  decoder = Decoder(experiment.model, params, window, vocabulary.eos_id, vocabulary.vocab_size, sampling)
  written, text = [], ""
  for tokens in decoder([ids], max_tokens, seed):
    ended = np.flatnonzero(tokens[0] == vocabulary.eos_id)
    written += tokens[0, :ended[0] if ended.size else None].tolist()
    # A character may be cut at the end of a piece, so all is decoded anew and what is new is shown.
    longer = vocabulary.decode(written).rstrip("\N{REPLACEMENT CHARACTER}")
    yield longer[len(text):]
    text = longer


def main(model_dir: str, prompt: str, max_tokens: int, temperature: float, top_k: int | None, top_p: float | None,
         seed: int, step: int | None) -> None:
  """Prints the prompt and its continuation as it is drawn."""
  configuration.load_run(model_dir)
  print(prompt, end="", flush=True)
  for piece in generate(model_dir, prompt, max_tokens=max_tokens, sampling=Sampling(temperature, top_k, top_p),
                        seed=seed, step=step):
    print(piece, end="", flush=True)
  print()
