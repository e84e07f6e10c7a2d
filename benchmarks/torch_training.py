"""The peer that trains: the decoder of torch_decoder.py on all cores with AdamW, and its bits per byte on a text."""

from collections.abc import Sequence
import math
import os
import shutil
from typing import Any

import numpy as np

from gpt4x.models.config import TransformerConfig

# How a step may be made. Each is the fastest somewhere.
VARIANTS = ("foreach", "fused", *(("compiled",) if shutil.which(os.environ.get("CXX", "g++")) else ()))
SEPARATOR = 256  # The id before, between and after documents of bytes.
VOCABULARY = 264  # Bytes and the separator, rounded up.
WARMUP = 0.05  # Of the whole training.


class Trainer:
  """A decoder and its AdamW: `step` trains it; nothing of it has been trained yet, whatever has been compiled."""

  def __init__(self, config: TransformerConfig, rows: int, length: int, variant: str, weight_decay: float, b2: float,
               seed: int = 0):
    import torch

    from benchmarks import torch_decoder
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(seed)
    self.model = torch_decoder.Decoder(config, torch.float32, length)
    self._loss = self.model.loss
    if variant == "compiled":
      import torch._inductor.config
      torch._inductor.config.compile_threads = 1  # Worker processes would outlive this one.
      self._loss = torch.compile(self.model.loss)
    start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
    self._optimizer = self._fresh(variant, weight_decay, b2)
    tokens = np.zeros((rows, length + 1), np.int64)
    for _ in range(3):
      self.step(tokens, 1e-3)
    self.model.load_state_dict(start)
    self._optimizer = self._fresh(variant, weight_decay, b2)

  def _fresh(self, variant: str, weight_decay: float, b2: float) -> Any:
    import torch
    matrices = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, b2), foreach=variant == "foreach", fused=variant != "foreach")

  def step(self, tokens: np.ndarray, rate: float) -> None:
    """One step on rows of tokens [B, L + 1], each the target of the one before."""
    import torch
    ids = torch.from_numpy(tokens)
    for group in self._optimizer.param_groups:
      group["lr"] = rate
    self._loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).backward()
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)


def schedule(share: float) -> float:
  """The learning rate, as a part of its peak, after a share of the training: up in a line, then down in one to 0."""
  return max(0.0, min(share / WARMUP, (1 - share) / (1 - WARMUP)))


def tokens_of(document: bytes) -> np.ndarray:
  """[N + 2] int64: the bytes of a document between separators."""
  return np.array([SEPARATOR, *document, SEPARATOR], np.int64)


def stream_of(documents: Sequence[bytes]) -> np.ndarray:
  """All documents one after the other, int16, with a separator before each and at the end."""
  parts = [np.array([SEPARATOR], np.int16)]
  for document in documents:
    parts += [np.frombuffer(document, np.uint8).astype(np.int16), parts[0]]
  return np.concatenate(parts)


def random_rows(stream: np.ndarray, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
  """[B, L + 1] int64, from anywhere in a stream."""
  starts = rng.integers(0, len(stream) - length, rows)
  return stream[starts[:, None] + np.arange(length + 1)].astype(np.int64)


def windows(targets: int, length: int) -> list[tuple[int, int, int]]:
  """Windows over so many targets as (start, first that counts, end): half a window on each time.

  Every target counts once, and all but the first window's see half a window or more before them.
  """
  stride = length // 2
  return [(start, start and start + stride, min(start + length, targets))
          for start in range(0, max(targets - stride, 1), stride)]


def bits_per_byte(config: TransformerConfig, parameters: dict[str, Any], documents: Sequence[bytes],
                  length: int) -> tuple[float, int]:
  """Bits per byte of each document for itself, its end included, and the bytes that were counted."""
  import torch
  import torch.nn.functional as F

  from benchmarks import torch_decoder
  model = torch_decoder.Decoder(config, torch.float32, length)
  model.load_state_dict(parameters)
  texts = list(map(tokens_of, documents))
  places = [(text, *window) for text in texts for window in windows(len(text) - 1, length)]
  nats, counted, batch = 0.0, 0, max(1, 8192 // length)
  with torch.inference_mode():
    for first in range(0, len(places), batch):
      group = places[first:first + batch]
      tokens = np.zeros((len(group), length + 1), np.int64)
      weights = np.zeros((len(group), length), np.float32)
      for i, (text, start, counts, end) in enumerate(group):
        tokens[i, :end - start + 1] = text[start:end + 1]
        weights[i, counts - start:end - start] = 1
      ids = torch.from_numpy(tokens)
      losses = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
      nats += float((losses * torch.from_numpy(weights).flatten()).double().sum())
      counted += int((weights * (tokens[:, 1:] != SEPARATOR)).sum())
  return nats / math.log(2) / counted, counted
