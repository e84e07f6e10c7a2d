"""Models of Llama's family as transformers keeps them: Llama (and SmolLM), Mistral, Qwen2 and Qwen3, in and out.

A directory has `config.json`, the weights (safetensors or `pytorch_model.bin`, whole or in shards) and perhaps a
tokenizer. Such a model is a stack with rotary positions, RMS norms in front and SwiGLU, whose memory is empty where a
text begins. Their rotary pairs are the halves of a head, as ours are; torch's kernels are [out, in].
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from gpt4x import storage
from gpt4x.errors import one_line, UserError
from gpt4x.interop import decoding_weights, json_files, layerwise, tensor_files
from gpt4x.interop.decoding_weights import Weight
from gpt4x.interop.layerwise import Source
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel

CONFIG = "config.json"
SHARD_BYTES = 5 * 10**9  # Of a file, at most, as transformers has it.
# What a converted model has unless it is said: positions that a token sees, tokens of a segment, and logits at a time.
_LONGEST_WINDOW, _LONGEST_SEGMENT, _LOSS_CHUNK = 4096, 512, 128

# Values of the fields that config.json leaves out.
_LLAMA: dict[str, Any] = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=None, head_dim=None, hidden_act="silu", max_position_embeddings=2048, rms_norm_eps=1e-6,
    tie_word_embeddings=False, rope_theta=10000.0, attention_dropout=0.0)
_MISTRAL = _LLAMA | dict(
    intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096)
_QWEN2 = _LLAMA | dict(
    vocab_size=151936, intermediate_size=22016, num_key_value_heads=32, max_position_embeddings=32768)
_QWEN3 = _QWEN2 | dict(head_dim=128)
_DEFAULTS = {"llama": _LLAMA, "mistral": _MISTRAL, "qwen2": _QWEN2, "qwen3": _QWEN3}
_ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
                  "Qwen3ForCausalLM": "qwen3"}
_KINDS: dict[str, Any] = {name: type(value) for name, value in _LLAMA.items()} | {
    "num_key_value_heads": int | None, "head_dim": int | None, "sliding_window": int | None}
# What else makes another function of a model, and the values that leave it as it is.
_ONLY: dict[str, tuple[Any, ...]] = dict(
    hidden_act=("silu", "swish"), attention_bias=(False,), mlp_bias=(False,), pretraining_tp=(1,),
    partial_rotary_factor=(1,), use_sliding_window=(False,), is_encoder_decoder=(False,), add_cross_attention=(False,),
    quantization_config=())
_COMPUTED = "model.layers.{}.self_attn.rotary_emb.inv_freq"  # Which older files have.

# What a model of the family has; everything else is a size, or has to do with training or execution.
_NEEDED: dict[str, Any] = {
    "positions": "rotary", "norm": "rms", "norm_position": "pre", "activation": "swiglu", "mlp_bias": False,
    "output_bias": False, "moe": None, "adaptive_cutoffs": (), "code_places": None, "share_layers": 1}


def load(directory: str | os.PathLike, **config_changes: Any) -> tuple[LanguageModel, Any]:
  """Reads what `save_pretrained` wrote of one of these models: the language model and its float32 parameters.

  Memory holds at most the parameters and the largest of them twice. `config_changes` are fields of TransformerConfig
  that change nothing about the parameters, e.g. scan_layers or dtype.
  """
  config = dataclasses.replace(read_config(pathlib.Path(directory) / CONFIG), **config_changes)
  file = tensor_files.open_directory(directory)
  layerwise.check_size(config, file)
  model = LanguageModel(config, form=None)
  return model, layerwise.load(model, file, dict(_sources(config)),
                               [_COMPUTED.format(i) for i in range(config.num_layers)])


def read_config(path: str | os.PathLike) -> TransformerConfig:
  """The TransformerConfig for a config.json.

  There is no memory in training. That of evaluation has the positions that a window has beside a segment: see
  `segment_length`.
  """
  path = pathlib.Path(path)
  c = _fields(path)
  try:
    return _transformer_config(c)
  except UserError as error:
    raise UserError(f"{path}: {one_line(error, 400)}") from error


def segment_length(path: str | os.PathLike) -> int:
  """Tokens of a segment for a config.json: 512, or half of a shorter window.

  The evaluation memory has the rest of the window, which has max_position_embeddings, or 4,096 positions.
  """
  return _window(_fields(pathlib.Path(path)))[0]


def _window(c: Mapping[str, Any]) -> tuple[int, int]:
  """The length of a segment and that of the evaluation memory."""
  window = min(c["max_position_embeddings"], _LONGEST_WINDOW)
  segment = min(_LONGEST_SEGMENT, -(-window // 2))
  return segment, window - segment


def _fields(path: pathlib.Path) -> dict[str, Any]:
  """What a config.json says, with the defaults of its architecture; a UserError for what has no counterpart here."""
  found = json_files.read(path)
  names = found.get("architectures")
  kind = next((kind for name, kind in _ARCHITECTURES.items() if names == [name]), None)
  if kind is None or found.get("model_type", kind) != kind:
    name = "architectures" if kind is None else "model_type"
    raise UserError(f"{path}: {name} = {one_line(repr(found.get(name)))} has no counterpart here: choose a model of"
                    f" {', '.join(_ARCHITECTURES)}")

  def refuse(name: str, value: Any, needed: str) -> None:
    raise UserError(f"{path}: {name} = {one_line(repr(value))} has no counterpart here: choose a model with"
                    f" {name} = {needed}")

  c = _DEFAULTS[kind] | found | {"kind": kind}
  for name in ("rope_scaling", "rope_parameters"):
    if (rope := c.get(name)) is None:
      continue
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default" or any(
        isinstance(value, dict) for value in rope.values()):
      refuse(name, rope, "null, or of rope_type 'default'")
    c |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
  for name in _DEFAULTS[kind]:
    if words := json_files.mismatch(c[name], _KINDS[name]):
      raise UserError(f"{path}: {name} = {one_line(repr(c[name]))} must be {words}: correct it")
  if c["max_position_embeddings"] < 1:
    raise UserError(f"{path}: max_position_embeddings = {c['max_position_embeddings']} must be at least 1: correct it")
  for name, values in _ONLY.items():
    if c.get(name) is not None and (c[name] not in values or isinstance(c[name], bool) != isinstance(values[0], bool)):
      refuse(name, c[name], json.dumps(values[0]) if values else "null")
  layers = c.get("layer_types")
  if layers is not None and (not isinstance(layers, list) or any(layer != "full_attention" for layer in layers)):
    refuse("layer_types", layers, "full_attention alone")
  sliding = c.get("sliding_window") if kind == "mistral" else None
  if sliding is not None and sliding < c["max_position_embeddings"]:
    refuse("sliding_window", sliding, f"null, or at least max_position_embeddings = {c['max_position_embeddings']}")
  return c


def _transformer_config(c: Mapping[str, Any]) -> TransformerConfig:
  return TransformerConfig(
      vocab_size=c["vocab_size"], num_layers=c["num_hidden_layers"], embed_dim=c["hidden_size"],
      num_heads=c["num_attention_heads"], num_kv_heads=c["num_key_value_heads"], head_dim=c["head_dim"],
      mlp_dim=c["intermediate_size"], memory_length=0, eval_memory_length=_window(c)[1], positions="rotary",
      rotary_base=c["rope_theta"], norm="rms", norm_position="pre", norm_epsilon=c["rms_norm_eps"],
      activation="swiglu", mlp_bias=False, attention_dropout_rate=c["attention_dropout"],
      tie_embeddings=c["tie_word_embeddings"], scale_embeddings=False, qkv_bias=c["kind"] == "qwen2",
      qk_norm=c["kind"] == "qwen3", loss_chunk=_LOSS_CHUNK)


def names(config: TransformerConfig) -> dict[str, str]:
  """Their name for each of our parameters, the first of several."""
  return {name: source.names[0] for name, source in _sources(config)}


def _sources(c: TransformerConfig) -> Iterator[tuple[str, Source]]:
  """The source of every parameter."""
  d, h, g, k, f = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
  table, output = "model.embed_tokens.weight", "lm_head.weight"
  yield "vocabulary.table", Source((table, output) if c.tie_embeddings else (table,), (c.vocab_size, d))
  if not c.tie_embeddings:
    yield "vocabulary.output_kernel", Source((output,), (c.vocab_size, d))
  yield "final_norm.scale", Source(("model.norm.weight",), (d,))
  for i in range(c.num_layers):
    ours, theirs = f"layers.{i}.", f"model.layers.{i}."

    def found(name, shape, convert=lambda tensor: tensor, theirs=theirs):
      return Source((f"{theirs}{name}",), shape, convert)

    for name, letter, heads in (("query", "q", h), ("key", "k", g), ("value", "v", g)):
      projection = f"self_attn.{letter}_proj"
      yield f"{ours}attention.{name}", found(
          f"{projection}.weight", (heads * k, d), lambda w, heads=heads: w.T.reshape(d, heads, k))
      if c.qkv_bias:
        yield f"{ours}attention.{name}_bias", found(
            f"{projection}.bias", (heads * k,), lambda b, heads=heads: b.reshape(heads, k))
      if c.qk_norm and name != "value":
        yield f"{ours}attention.{name}_norm.scale", found(f"self_attn.{letter}_norm.weight", (k,))
    yield f"{ours}attention.out", found("self_attn.o_proj.weight", (d, h * k), lambda w: w.T.reshape(h, k, d))
    for name, other, inputs, outputs in (("wi_gate", "gate", d, f), ("wi", "up", d, f), ("wo", "down", f, d)):
      yield f"{ours}mlp.{name}", found(f"mlp.{other}_proj.weight", (outputs, inputs), np.transpose)
    for name, other in (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
      yield f"{ours}{name}.scale", found(f"{other}.weight", (d,))


# Out.


def check(config: TransformerConfig) -> None:
  """Raises UserError for a model that is none of the family."""
  for name, needed in _NEEDED.items():
    if (found := getattr(config, name)) != needed:
      raise UserError(f"--format=huggingface is for models of Llama's family: {name} is {found!r}, and {needed!r}"
                      " there; choose another --format")
  if config.has_projections:
    raise UserError(f"--format=huggingface is for models of Llama's family: vocab_embed_dim is"
                    f" {config.vocab_embed_dim}, and {config.embed_dim} there; choose another --format")
  if config.qkv_bias and config.qk_norm:
    raise UserError("--format=huggingface is for models of Llama's family: qk_norm is True beside qkv_bias = True, and"
                    " no architecture has both; choose another --format")


def check_free(directory: str | os.PathLike) -> None:
  """Raises UserError if a file would take the place of something."""
  for name in (tensor_files.SAFETENSORS, f"{tensor_files.SAFETENSORS}.index.json", CONFIG):
    if (path := storage.path(directory) / name).exists():
      raise UserError(f"{path} is there already: choose another directory, or remove it")


def save(directory: str | os.PathLike, config: TransformerConfig, parameters: Mapping[str, Weight], window: int,
         shard_bytes: int = SHARD_BYTES, **fields: Any) -> None:
  """Writes a model into a directory without one, in float32; config.json comes last.

  Args:
    directory: where to.
    config: the model's.
    parameters: layer by layer, as `decoding_weights.named` gives them.
    window: positions that a token sees, which transformers takes as the longest text.
    shard_bytes: of a file of weights, at most; a tensor that is larger has a file of its own.
    **fields: more of config.json, such as eos_token_id.
  """
  check(config)
  check_free(directory)
  directory = storage.path(directory)
  storage.make_directory(directory)
  tensors, sizes = _tensors(config, parameters)
  shards: list[list[str]] = [[]]
  room = shard_bytes
  for name, size in sizes.items():
    if shards[-1] and size > room:
      shards.append([])
      room = shard_bytes
    shards[-1].append(name)
    room -= size
  files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
  files = files if len(shards) > 1 else [tensor_files.SAFETENSORS]
  for file, names in zip(files, shards):
    with storage.new_file(directory / file) as unfinished:
      unfinished.touch()
      mode = unfinished.stat().st_mode
      # transformers asks which library a file is of.
      safetensors.numpy.save_file({name: tensors(name) for name in names}, unfinished, metadata={"format": "pt"})
      unfinished.chmod(mode)  # The library makes it unreadable to others.
  if len(shards) > 1:
    content = {"metadata": {"total_size": sum(sizes.values())},
               "weight_map": {name: file for file, names in zip(files, shards) for name in names}}
    storage.write(directory / f"{tensor_files.SAFETENSORS}.index.json", (json.dumps(content, indent=2) + "\n").encode())
  content = _config(config, window) | fields
  storage.write(directory / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def _tensors(c: TransformerConfig, parameters: Mapping[str, Weight]) -> tuple[Any, dict[str, int]]:
  """Their tensors, made by name one at a time, and the bytes of each in float32."""
  sources = dict(_sources(dataclasses.replace(c, tie_embeddings=_is_tied(c))))
  if not _is_tied(c) and c.tie_embeddings:  # The scaled table and the one that logits are made with become two.
    parameters = {**parameters, "vocabulary.output_kernel": parameters["vocabulary.table"]}
  ours = {source.names[0]: name for name, source in sources.items()}

  def tensor(name: str) -> np.ndarray:
    array = decoding_weights.dense(parameters[ours[name]])
    shape = sources[ours[name]].shape
    if ours[name] == "vocabulary.table":
      array = array * np.float32(c.embed_dim**0.5) if c.scale_embeddings else array
    elif len(shape) > 1 and ours[name] != "vocabulary.output_kernel":
      array = array.reshape(shape[1], shape[0]).T
    return np.ascontiguousarray(array.reshape(shape))

  return tensor, {name: 4 * math.prod(sources[our].shape) for name, our in ours.items()}


def _is_tied(c: TransformerConfig) -> bool:
  return c.tie_embeddings and not c.scale_embeddings


def _config(c: TransformerConfig, window: int) -> dict[str, Any]:
  kind = "qwen3" if c.qk_norm else "qwen2" if c.qkv_bias else "llama"
  architecture, = (name for name, one in _ARCHITECTURES.items() if one == kind)
  only = {"llama": {"attention_bias": False, "mlp_bias": False}, "qwen2": {"use_sliding_window": False},
          "qwen3": {"attention_bias": False, "use_sliding_window": False}}
  return {
      "architectures": [architecture], "model_type": kind, "vocab_size": c.vocab_size, "hidden_size": c.embed_dim,
      "intermediate_size": c.mlp_dim, "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
      "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
      "max_position_embeddings": window, "rms_norm_eps": c.norm_epsilon, "rope_theta": c.rotary_base,
      "rope_scaling": None, "tie_word_embeddings": _is_tied(c), "attention_dropout": c.attention_dropout_rate,
      **only[kind], "torch_dtype": "float32"}
