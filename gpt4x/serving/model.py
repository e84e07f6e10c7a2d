"""The model of a run, as it is served."""

from collections.abc import Callable, Mapping, Sequence
import threading
import time
from typing import Any

import jax
import numpy as np

from gpt4x.data import chat_template, vocabularies
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import media
from gpt4x.inference.drafting import DraftModel
from gpt4x.inference.engine import Engine
from gpt4x.inference.generate import drawn
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.speculation import Proposer
from gpt4x.inference.text import Text
from gpt4x.partitioning import Partitioner
from gpt4x.serving.batcher import Batcher
from gpt4x.serving.contract import Event, Request
from gpt4x.serving.job import Job
from gpt4x.serving.parts import Parts
from gpt4x.serving.prefixes import Prefixes
from gpt4x.serving.rows import CHUNK

_ROLES = ("system", "developer", "user", "assistant")
ALTERNATIVES = 20  # The most that a request may ask for.
_COMPILED = "/jax/core/compile/backend_compile_duration"

_compilations: list[str] = []  # Of this process, since the last model was ready.


def _count(event: str, duration_secs: float, **_: Any) -> None:
  del duration_secs
  if event == _COMPILED:
    _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_count)


def load(name: str, model_dir: str, experiment: Experiment, *, slots: int = 16, max_queue: int = 64,
         prefix_bytes: int = 1 << 28, step: int | None = None, window: int | None = None,
         propose: Proposer | None = None, partitioner: Partitioner | None = None,
         seconds: float | None = None) -> "ServedModel":
  """Reads the model of a run and compiles what serves it; it takes requests at once.

  Args:
    name: what requests call it.
    model_dir: the run's directory; nothing else is read.
    experiment: the run's own.
    slots: rows that are decoded together.
    max_queue: requests that may wait.
    prefix_bytes: for what prompts leave to those that begin alike.
    step: the checkpoint; None: the newest.
    window: latest positions that each token attends to; None: a segment and the longer of the two memories.
    propose: guesses how the text of a request goes on that is alone; None: nothing is guessed.
    partitioner: the mesh that the parameters lie on; None: one device.
    seconds: how much of a sound the model takes; None: all.
  """
  if not vocabularies.saved_in(model_dir):
    raise UserError(f"{model_dir} has no vocabulary, so texts have no tokens: copy the one that the model was trained"
                    " with there")
  if experiment.dataset.feature_converter == "prefix_lm":
    raise UserError(f"the model in {model_dir} was trained on prompts that it sees in both directions, and the server"
                    " reads in one: use `gpt4x generate`, or train it with DatasetConfig.feature_converter ="
                    " 'causal_lm'")
  partitioner = partitioner or Partitioner(data=1, num_devices=1)
  params = experiment.restore_params(model_dir, partitioner, step)[1]
  model = ServedModel(name, experiment, vocabularies.load(model_dir), params, window,
                      chat_template.of_run(model_dir), partitioner, slots, max_queue, prefix_bytes, propose, seconds)
  model.start()
  return model


def drafting(draft_dir: str, draft: Experiment, model_dir: str,
             partitioner: Partitioner | None = None) -> DraftModel:
  """The model of the run in `draft_dir` as it guesses for that in `model_dir`; a UserError if it has other tokens."""
  vocabulary = vocabularies.load(draft_dir)
  if not vocabularies.alike(vocabulary, vocabularies.load(model_dir)):
    raise UserError(f"the models in {draft_dir} and {model_dir} have different vocabularies, so one cannot guess for"
                    " the other: draft with one that was trained on the same tokens")
  partitioner = partitioner or Partitioner(data=1, num_devices=1)
  num_ids, end = drawn(vocabulary, False, False)
  engine = Engine(draft.language_model, draft.decoding_window(), end, num_ids, Sampling(0.0), segment_length=64,
                  first_id=vocabularies.first_text_id(vocabulary), start_id=vocabularies.start_id(vocabulary),
                  partitioner=partitioner)
  return DraftModel(engine, draft.restore_params(draft_dir, partitioner)[1])


class ServedModel:
  """What `contract.Served` says."""

  def __init__(self, name: str, experiment: Experiment, vocabulary: Any, params: Any,
               window: int | None = None, template: chat_template.Template | None = None,
               partitioner: Partitioner | None = None, slots: int = 16, max_queue: int = 64,
               prefix_bytes: int = 1 << 28, propose: Proposer | None = None, seconds: float | None = None):
    """Takes what `load` reads; `start` compiles."""
    self.name, self.created, self.window = name, int(time.time()), experiment.decoding_window(window)
    self._vocabulary, self._params, self._template = vocabulary, params, template
    self._parts = Parts(vocabulary, seconds)
    size = experiment.language_model.config.vocab_size
    num_ids, self._end = drawn(vocabulary, False, False)
    if media.known(vocabulary):  # Nothing here holds what is drawn to the grammar of media.
      num_ids = vocabulary.text.vocab_size
    self.num_ids = min(num_ids, size)
    self._ids = range(vocabularies.first_text_id(vocabulary), size)
    ends = {self._end} if template is None else {self._end, template.stop(vocabulary)[0]}
    self._ends = {end for end in ends if end is not None}
    self.chat_refusal = None if template else (
        f"the model {name} has no chat template: use completions, or train it on conversations")
    # A piece of a prompt is read between two chunks of decoding, which wait for it.
    self._engine = Engine(
        experiment.language_model, self.window, self._end, num_ids, segment_length=64, chunk_length=CHUNK,
        first_id=self._ids.start, start_id=vocabularies.start_id(vocabulary), partitioner=partitioner, adjusts=True,
        alternatives=min(ALTERNATIVES, size))
    self._batcher = Batcher(self._engine, params, self._text, slots, max_queue, Prefixes(64, prefix_bytes),
                            propose)
    self._embedding, self.capacity = threading.Lock(), slots + max_queue

  def start(self) -> None:
    """Compiles, and takes requests from then on."""
    self._batcher.start()
    self.embed([[self._ids.start]])
    _compilations.clear()

  def stop(self) -> None:
    self._batcher.stop()

  def ready(self) -> bool:
    return self._batcher.ready

  def figures(self) -> Mapping[str, float]:
    return self._batcher.figures() | {"compilations": len(_compilations)}

  def encode(self, text: str) -> list[int]:
    return self.checked(self._vocabulary.encode(text))

  def checked(self, ids: Sequence[int]) -> list[int]:
    """Ids that the model knows, or a UserError."""
    for token in ids:
      if token not in self._ids:
        raise UserError(f"the text has the token {token}, and the model knows {self._ids.start} to"
                        f" {self._ids.stop - 1}")
    return list(ids)

  def text(self, token: int) -> str:
    return self.raw(token).decode("utf-8", "replace")

  def raw(self, token: int) -> bytes:
    return vocabularies.token_content(self._vocabulary, token)

  def chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], tuple[str, ...]]:
    if self._template is None:
      raise UserError(self.chat_refusal)
    for number, one in enumerate(messages, 1):
      if one["role"] not in _ROLES:
        raise UserError(f"message {number} has the role {one['role']!r}: use {', '.join(_ROLES)}")
    contents = self._parts.encode([one["content"] for one in messages])
    roles = ["system" if one["role"] == "developer" else one["role"] for one in messages]
    # A template writes what is around a content, which it does not see.
    pieces = self._template.pieces([{"role": role, "content": ""} for role in roles], generation=True)
    ids, _ = chat_template.encode(pieces, self._vocabulary, contents=contents)
    stop = self._template.stop(self._vocabulary)[1]
    return self.checked(ids), (stop,) if stop.strip() else ()

  def submit(self, request: Request, deliver: Callable[[Event], None]) -> Job:
    return self._batcher.submit(request, deliver)

  def embed(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """By the same programs as prompts are read; one text after the other."""
    found = []
    for text in ids:
      with self._embedding:  # The texts of one request do not take all cores from what is decoded.
        total, place = 0.0, 0
        for count, hidden, _ in self._engine.extensions(self._params, self._engine.begin(self._params), text):
          total, place = total + np.asarray(hidden, np.float32)[0, :count - place].sum(0), count
        found.append(total / len(text))
    return np.stack(found)

  def _text(self, request: Request) -> Text:
    return Text(self._vocabulary, request.ids, request.max_tokens, request.stop, self._ends)

