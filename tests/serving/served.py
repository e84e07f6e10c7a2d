"""Small models that are served: of bytes, with random parameters."""

import functools
import queue
from typing import Any

import jax
import numpy as np
import seqio

from gpt4x.data.chat_template import Template
from gpt4x.data.dataset import DatasetConfig
from gpt4x.experiment import Experiment
from gpt4x.inference.drafting import DraftModel
from gpt4x.inference.engine import Engine
from gpt4x.inference.sampling import Sampling
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner
from gpt4x.serving.contract import Delta, Event, Failed, Finished, Prompted, Request
from gpt4x.serving.model import ServedModel

WARM = Sampling(1.0)
COLD = Sampling(0.0)
MODEL = LanguageModel(TransformerConfig(vocab_size=260, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32,
                                        norm_position="pre", output_bias=True))
EXPERIMENT = Experiment(MODEL, DatasetConfig("local_text_bytes", {"targets": 32}, 2, "lm"))


@functools.cache
def params() -> Any:
  """Letters and blanks are drawn, and the end now and then; others where a request has a bias for them."""
  drawn = [1, *(3 + ord(letter) for letter in "abcdefghijklm ")]
  bias = np.full(260, -60, np.float32)
  bias[drawn] = 0
  place = lambda path, leaf: bias if "output_bias" in jax.tree_util.keystr(path) else 3 * leaf
  made = jax.tree_util.tree_map_with_path(place, MODEL.init(jax.random.key(0)))
  return jax.device_put(made, Partitioner(data=1, num_devices=1).replicated)  # As restored ones are.


def made(**options: Any) -> ServedModel:
  """A model that is not started."""
  return ServedModel("tiny", EXPERIMENT, seqio.ByteVocabulary(), **{
      "params": params(), "slots": 3, "max_queue": 8, "template": Template()} | options)


def draft() -> DraftModel:
  """The model as it guesses for itself: rightly where the likeliest is drawn."""
  return DraftModel(Engine(MODEL, 32, 1, 259, COLD, segment_length=32, first_id=3), params())


class Collected:
  """What a request came to."""

  def __init__(self):
    self.events: queue.Queue[Event] = queue.Queue()
    self.text, self.tokens, self.prompted = "", [], None

  def __call__(self, event: Event) -> None:
    self.events.put(event)

  def end(self) -> Finished | Failed:
    """Waits for the end."""
    while True:
      event = self.events.get(timeout=60)
      if isinstance(event, Delta):
        self.text += event.text
        self.tokens += event.tokens
      elif isinstance(event, Prompted):
        self.prompted = event.tokens
      else:
        return event


def ask(model: ServedModel, text: str = "", max_tokens: int = 20, sampling: Sampling = WARM,
        **options: Any) -> Collected:
  """A request that was taken in."""
  collected = Collected()
  collected.ticket = model.submit(Request(tuple(model.encode(text)), max_tokens, sampling, **options), collected)
  return collected


def answered(model: ServedModel, *args: Any, **options: Any) -> Collected:
  """A request that came to its end."""
  collected = ask(model, *args, **options)
  collected.finished = collected.end()
  return collected


