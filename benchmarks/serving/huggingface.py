"""Sixteen streams of the server beside `generate` of Hugging Face, which has the same 16 prompts in one batch.

The model and the prompts are those of `benchmarks/serving/streams.py`; peers have as many layers, of the same width,
and random parameters, in float32 on all cores (transformers 4.35.2, PyTorch).

  huggingface        tokens/s; the peer is TransfoXLLMHeadModel with a memory of as many positions as our window, timed
                     over 8 new tokens, since each takes as long
  huggingface/llama  the peer is LlamaForCausalLM with its cache and 128 new tokens, no memory behind these; for
                     information

    .venv-bench/bin/python -m benchmarks.serving.huggingface [--rounds=3] [--dry_run]
"""

import argparse
from collections.abc import Callable, Iterator
import os
import pathlib
import time
import warnings

from benchmarks import harness, peer
from benchmarks.harness import Round, Row
from benchmarks.serving import server

NEW, SLOTS, PROMPT, RECURRENT_NEW = 128, 16, 64, 8
COMMAND = "python -m benchmarks.serving.huggingface"


def rows(directory: pathlib.Path, arguments: argparse.Namespace) -> Iterator[Row]:
  sides = {"huggingface": harness.Side(transformer_xl, None), "huggingface/llama": harness.Side(llama, None)}
  found: dict[str, list[Round]] = {"ours": [], **{name: [] for name in sides}}
  with server.serving(directory) as one:
    for number in range(1 + arguments.rounds):
      tokens, _ = one.ask_all(server.texts(SLOTS, PROMPT, seed=number), NEW)
      found["ours"].append({"tokens": tokens})
      for name, side in sides.items():
        found[name].append(side.round())
  for name, side in sides.items():
    side.close()
    yield harness.compare(f"serving/{name}", "tokens/s", found["ours"][1:], found[name][1:], "tokens",
                          goal="ratio >= 5" if name == "huggingface" else "")


def transformer_xl(_: None) -> Callable[[], Round]:
  import torch
  sizes = peer.Sizes(server.LAYERS, server.WIDTH, server.HEADS, server.MLP, memory=server.WINDOW)
  model, prompts = peer.theirs(sizes).eval(), _prompts()
  model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0

  @torch.no_grad()
  def generate() -> Round:
    start = time.perf_counter()
    memory = model(prompts[:, :-1]).mems
    middle = time.perf_counter()
    model.generate(prompts, past_key_values=memory, max_new_tokens=RECURRENT_NEW, do_sample=False)
    step = (time.perf_counter() - middle) / RECURRENT_NEW
    return {"tokens": SLOTS * NEW / (middle - start + NEW * step)}

  return generate


def llama(_: None) -> Callable[[], Round]:
  warnings.filterwarnings("ignore")
  os.environ |= {"USE_TF": "0", "USE_FLAX": "0", "TRANSFORMERS_VERBOSITY": "error"}
  import torch
  import transformers
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=260, hidden_size=server.WIDTH, num_hidden_layers=server.LAYERS, num_attention_heads=server.HEADS,
      intermediate_size=server.MLP * 2 // 3, max_position_embeddings=server.WINDOW)).eval()
  model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
  prompts = _prompts()

  @torch.no_grad()
  def generate() -> Round:
    start = time.perf_counter()
    output = model.generate(prompts, max_new_tokens=NEW, do_sample=False)
    assert output.shape == (SLOTS, PROMPT + NEW)
    return {"tokens": SLOTS * NEW / (time.perf_counter() - start)}

  return generate


def _prompts():
  import torch
  return torch.tensor([list(text.encode()) for text in server.texts(SLOTS, PROMPT)])


if __name__ == "__main__":
  server.main(COMMAND, rows, server.write_model, rounds=3)
