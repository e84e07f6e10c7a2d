"""GPT4Config: GPT-2's names for a TransformerConfig, and `import gpt4x`, which brings no library along."""

import json

import pytest

import gpt4x
from gpt4x import GPT4Config
from gpt4x.errors import UserError
from gpt4x.models.config import MoEConfig, TransformerConfig
from tests.test_imports import imported_by


def test_names_are_those_of_a_transformer_config():
  config = GPT4Config(vocab_size=30, n_positions=40, n_embd=8, n_layer=3, n_head=2, n_inner=12, memory_length=5,
                      norm="layer", positions="relative")
  assert config.transformer == TransformerConfig(
      vocab_size=30, num_layers=3, embed_dim=8, num_heads=2, mlp_dim=12, memory_length=5, norm="layer",
      norm_position="pre", activation="swiglu", mlp_bias=False, tie_embeddings=False)
  assert (config.n_embd, config.hidden_size, config.embed_dim, config.num_hidden_layers) == (8, 8, 8, 3)
  assert (config.n_positions, config.max_position_embeddings, config.n_inner, config.norm) == (40, 40, 12, "layer")
  assert GPT4Config(hidden_size=24, num_attention_heads=2, max_position_embeddings=7).to_dict().items() >= {
      "n_embd": 24, "n_head": 2, "n_positions": 7}.items()


@pytest.mark.parametrize("changes", [{}, dict(moe=MoEConfig(4), n_layer=2), dict(eos_token_id=1, adaptive_cutoffs=[9])])
def test_a_dict_makes_it_again(changes):
  config = GPT4Config(vocab_size=30, n_embd=8, n_head=2, **changes)
  assert GPT4Config(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("wrong, message", [
    (dict(n_heads=2), "no n_heads: did you mean n_head?"), (dict(n_positions=4, memory_length=4), "above the memory"),
    (dict(n_positions=0), "above the memory"),
    (dict(n_embd=9), "does not divide"), (dict(norm="both"), "TransformerConfig.norm")])
def test_what_is_wrong_is_told(wrong, message):
  with pytest.raises(UserError, match=message.replace("?", r"\?")):
    GPT4Config(**{"vocab_size": 30, "n_embd": 8, "n_head": 2, **wrong})


def test_the_package_alone_imports_nothing():
  assert not {"jax", "numpy", "tensorflow", "gin", "flax"} & imported_by("import gpt4x; dir(gpt4x)")
  assert {"GPT4Config", "GPT4LMHeadModel", "GPT4Tokenizer", "TextDataset", "DataCollatorForLanguageModeling",
          "Trainer", "TrainingArguments"} <= set(dir(gpt4x))
  with pytest.raises(AttributeError, match="no attribute 'GPT5'"):
    _ = gpt4x.GPT5
