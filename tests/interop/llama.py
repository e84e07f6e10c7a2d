"""Llama's family as transformers keeps it: configurations, tensors by their names, a forward pass in NumPy, files.

Written from the papers and the published layouts, literally and in float64; nothing of gpt4x is in it.
"""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

SIZES = dict(vocab_size=30, hidden_size=8, intermediate_size=14, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=0.01, rope_theta=100.0, hidden_act="silu",
             attention_dropout=0.0, torch_dtype="float32", bos_token_id=1, eos_token_id=2)
FAMILIES = {
    "llama": dict(architectures=["LlamaForCausalLM"], model_type="llama", attention_bias=False, mlp_bias=False,
                  pretraining_tp=1, rope_scaling=None, tie_word_embeddings=False),
    "smollm": dict(architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=True,
                   rope_interleaved=False, is_llama_config=True, num_key_value_heads=1, rope_scaling=None),
    "mistral": dict(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=None, head_dim=6,
                    tie_word_embeddings=False),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=False, sliding_window=16,
                  max_window_layers=2, tie_word_embeddings=True),
    "qwen2_untied": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=False,
                         sliding_window=None, tie_word_embeddings=False,
                         layer_types=["full_attention", "full_attention"]),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=6, attention_bias=False,
                  use_sliding_window=False, tie_word_embeddings=True),
    "qwen3_untied": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=10, attention_bias=False,
                         tie_word_embeddings=False, rope_theta=None,
                         rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
}

TEMPLATE = "{% for message in messages %}<s>{{ message.content }}</s>{% endfor %}"


def make_config(family, **changes):
  config = SIZES | FAMILIES[family] | changes
  return {name: value for name, value in config.items() if name != "rope_theta" or value is not None}


def _sizes(config):
  head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
  return config["num_attention_heads"], config["num_key_value_heads"], head_dim


def make_tensors(config, seed=0):
  rng = np.random.default_rng(seed)
  heads, groups, k = _sizes(config)
  d, f, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
  draw = lambda *shape, centre=0.0: (centre + 0.4 * rng.normal(size=shape)).astype(np.float32)
  tensors = {"model.embed_tokens.weight": draw(config["vocab_size"], d), "model.norm.weight": draw(d, centre=1.0)}
  if not config["tie_word_embeddings"]:
    tensors["lm_head.weight"] = draw(config["vocab_size"], d)
  for i in range(config["num_hidden_layers"]):
    layer = f"model.layers.{i}."
    for name, count in (("q", heads), ("k", groups), ("v", groups)):
      tensors[f"{layer}self_attn.{name}_proj.weight"] = draw(count * k, d)
      if kind == "qwen2":
        tensors[f"{layer}self_attn.{name}_proj.bias"] = draw(count * k)
      if kind == "qwen3" and name != "v":
        tensors[f"{layer}self_attn.{name}_norm.weight"] = draw(k, centre=1.0)
    tensors[f"{layer}self_attn.o_proj.weight"] = draw(d, heads * k)
    for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
      tensors[f"{layer}mlp.{name}_proj.weight"] = draw(*shape)
    for name in ("input_layernorm", "post_attention_layernorm"):
      tensors[f"{layer}{name}.weight"] = draw(d, centre=1.0)
  return tensors


def forward(tensors, config, tokens):
  """The logits [T, V] after each of tokens [T]."""
  heads, groups, k = _sizes(config)
  theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
  length = len(tokens)
  weight = lambda name: np.asarray(tensors[f"{name}.weight"], np.float64)

  def norm(x, name):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + config["rms_norm_eps"]) * weight(name)

  def linear(x, name):
    y = np.einsum("ti,oi->to", x, weight(name))
    return y + tensors[f"{name}.bias"].astype(np.float64) if f"{name}.bias" in tensors else y

  def rotated(x):  # [T, heads, K]: feature j and j + K / 2 are a pair, turned by position / theta^(2j / K).
    turned = np.empty_like(x)
    for position in range(length):
      for j in range(k // 2):
        angle = position / theta ** (2 * j / k)
        real, imaginary = x[position, :, j], x[position, :, j + k // 2]
        turned[position, :, j] = real * np.cos(angle) - imaginary * np.sin(angle)
        turned[position, :, j + k // 2] = imaginary * np.cos(angle) + real * np.sin(angle)
    return turned

  x = weight("model.embed_tokens")[tokens]
  for i in range(config["num_hidden_layers"]):
    layer = f"model.layers.{i}."
    normed = norm(x, f"{layer}input_layernorm")
    query, key, value = (linear(normed, f"{layer}self_attn.{name}_proj").reshape(length, -1, k) for name in "qkv")
    if f"{layer}self_attn.q_norm.weight" in tensors:
      query, key = norm(query, f"{layer}self_attn.q_norm"), norm(key, f"{layer}self_attn.k_norm")
    query, key = rotated(query), rotated(key)
    mixed = np.zeros((length, heads, k))
    for head in range(heads):
      group = head // (heads // groups)
      scores = query[:, head] @ key[:, group].T / np.sqrt(k)
      scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ value[:, group]
    x = x + linear(mixed.reshape(length, -1), f"{layer}self_attn.o_proj")
    normed = norm(x, f"{layer}post_attention_layernorm")
    gate = linear(normed, f"{layer}mlp.gate_proj")
    x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, f"{layer}mlp.up_proj"), f"{layer}mlp.down_proj")
  return norm(x, "model.norm") @ weight("model.embed_tokens" if config["tie_word_embeddings"] else "lm_head").T


def write(directory, config, tensors, shards=1):
  """A directory as save_pretrained leaves it."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  if shards == 1:
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
  names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
  places = {name: names[i % shards] for i, name in enumerate(tensors)}
  for file in names:
    safetensors.numpy.save_file({name: tensor for name, tensor in tensors.items() if places[name] == file},
                                directory / file, metadata={"format": "pt"})
  total = sum(tensor.nbytes for tensor in tensors.values())
  (directory / "model.safetensors.index.json").write_text(
      json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
  return directory


def write_tokenizer(directory):
  """A tokenizer of words, with what tells its special tokens and its chat template."""
  tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
  words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(20))]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(words[:3])
  tokenizer.save(str(directory / "tokenizer.json"))
  (directory / "tokenizer_config.json").write_text(json.dumps({
      "bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>", "chat_template": TEMPLATE,
      "model_max_length": 10**30}))
