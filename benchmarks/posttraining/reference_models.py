"""Random models of transformers, and what it makes of them: `make FOLDER` writes them, `read FOLDER` reads ours.

It needs torch and transformers alone, in an environment of its own; see huggingface_parity.py.
"""

import json
import os
import pathlib
import sys

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
import transformers

ROWS, LENGTH = 2, 128
_SIZES = dict(vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5)
# The name of each model, the class behind it, and what it has beside the sizes.
MODELS = {
    "llama": ("Llama", dict(tie_word_embeddings=False)),
    "smollm": ("Llama", dict(tie_word_embeddings=True, num_key_value_heads=1)),
    "mistral": ("Mistral", dict(tie_word_embeddings=False, sliding_window=None, head_dim=24)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=False)),
    "qwen2_tied": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=False, head_dim=24)),
    "qwen3_tied": ("Qwen3", dict(tie_word_embeddings=True, head_dim=24)),
}


def make(folder: pathlib.Path) -> None:
  """Writes each model, `tokens.npy` for all, and in each folder the `logits.npy` of them."""
  tokens = np.random.default_rng(0).integers(0, _SIZES["vocab_size"], (ROWS, LENGTH), dtype=np.int32)
  np.save(folder / "tokens.npy", tokens)
  for name, (kind, options) in MODELS.items():
    config = getattr(transformers, f"{kind}Config")(**(_SIZES | options))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
      # Large enough that attention is far from uniform and no bias is zero.
      for parameter, value in model.named_parameters():
        centre = 1.0 if "norm" in parameter else 0.0
        value.copy_(centre + 0.2 * torch.randn(value.shape, generator=generator))
    model.save_pretrained(folder / name, max_shard_size="200KB")
    np.save(folder / name / "logits.npy", _logits(model, tokens))


def read(folder: pathlib.Path) -> None:
  """Prints the largest difference of logits of each model that was written again, as JSON."""
  tokens, found = np.load(folder / "tokens.npy"), {}
  for name in MODELS:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / f"{name}_again", dtype=torch.float32).eval()
    found[name] = float(np.abs(_logits(model, tokens) - np.load(folder / name / "logits.npy")).max())
  print(json.dumps(found))


def _logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    return model(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()


if __name__ == "__main__":
  {"make": make, "read": read}[sys.argv[1]](pathlib.Path(sys.argv[2]))
