"""The peer, TransfoXLLMHeadModel of transformers 4.35.2 on PyTorch, and our model of the same sizes."""

import dataclasses
import os
import warnings


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a Transformer-XL as published: post-norm, relu, biases, u and v of all layers tied, embeddings tied."""

  layers: int
  width: int
  heads: int
  mlp: int
  memory: int
  vocabulary: int = 256  # Bytes.


def ours(sizes: Sizes):
  from gpt4x.models.config import TransformerConfig
  from gpt4x.models.language_model import LanguageModel
  return LanguageModel(TransformerConfig(
      vocab_size=sizes.vocabulary, num_layers=sizes.layers, embed_dim=sizes.width, num_heads=sizes.heads,
      mlp_dim=sizes.mlp, memory_length=sizes.memory, output_bias=True, scan_layers=False,
      loss_chunk=16 if sizes.vocabulary > 10_000 else None))


def theirs(sizes: Sizes):
  """With dropout 0 and without the adaptive softmax, as ours."""
  warnings.filterwarnings("ignore")
  os.environ |= {"USE_TF": "0", "USE_FLAX": "0", "TRANSFORMERS_VERBOSITY": "error"}
  import torch
  import transformers
  torch.set_num_threads(os.cpu_count())
  torch.manual_seed(0)
  return transformers.TransfoXLLMHeadModel(transformers.TransfoXLConfig(
      vocab_size=sizes.vocabulary, n_layer=sizes.layers, d_model=sizes.width, d_embed=sizes.width, n_head=sizes.heads,
      d_head=sizes.width // sizes.heads, d_inner=sizes.mlp, mem_len=sizes.memory, cutoffs=[], div_val=1, untie_r=False,
      same_length=False, clamp_len=-1, dropout=0.0, dropatt=0.0, trainer_compatible=True))


def check_parameters(sizes: Sizes, count: float) -> None:
  """Raises ValueError unless the peer, which has so many parameters, has as many as ours."""
  if count != (expected := ours(sizes).config.num_params()):
    raise ValueError(f"the peer has {count} parameters, ours {expected}: {sizes}")
