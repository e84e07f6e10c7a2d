"""Reads Transformer-XL models of Hugging Face, as transformers 4.35.2, the last version with this model, saves them.

A directory has `config.json`, the weights (safetensors or `pytorch_model.bin`) and perhaps the vocabulary (`vocab.txt`,
`vocab.pkl` or `vocab.bin`). Its words are those between spaces: raw text is not split (Moses) here.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import numpy as np

from gpt4x.errors import one_line, UserError
from gpt4x.interop import json_files, layerwise, torch_files
from gpt4x.interop.layerwise import Source
from gpt4x.interop.tensor_files import open_directory
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel

# Values of the fields that config.json leaves out.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=267735, cutoffs=[20000, 40000, 200000], d_model=1024, d_embed=1024, n_head=16, d_head=64, d_inner=4096,
    div_val=4, pre_lnorm=False, n_layer=18, mem_len=1600, clamp_len=1000, same_length=True,
    proj_share_all_but_first=True, attn_type=0, sample_softmax=-1, adaptive=True, dropout=0.1, dropatt=0.0,
    untie_r=True, layer_norm_epsilon=1e-5, tie_word_embeddings=True)
_OTHER_NAMES = {"n_token": "vocab_size", "hidden_size": "d_model", "num_attention_heads": "n_head",
                "num_hidden_layers": "n_layer"}
# With other values, a model differs in more than numbers.
_ONLY: dict[str, Any] = dict(pre_lnorm=False, attn_type=0, adaptive=True, sample_softmax=-1)
_COMPUTED = {"transformer.pos_emb.inv_freq"}
_SURROGATE = re.compile("[\ud800-\udfff]")  # Which UTF-8 cannot say.


def from_hugging_face(directory: str | os.PathLike, **config_changes: Any) -> tuple[LanguageModel, Any]:
  """Reads what `save_pretrained` of `TransfoXLLMHeadModel` wrote: the language model and its float32 parameters.

  Memory holds at most the parameters and the largest of them twice. `config_changes` are fields of TransformerConfig
  that change nothing about the parameters, e.g. scan_layers or dtype.
  """
  config = dataclasses.replace(read_config(pathlib.Path(directory) / "config.json"), **config_changes)
  file = open_directory(directory)
  layerwise.check_size(config, file)
  model = LanguageModel(config, form=None)
  return model, layerwise.load(model, file, dict(_sources(config)), _COMPUTED)


def read_config(path: str | os.PathLike) -> TransformerConfig:
  """The TransformerConfig for a config.json."""
  path = pathlib.Path(path)
  found = {_OTHER_NAMES.get(name, name): value for name, value in json_files.read(path).items()}
  if found.setdefault("model_type", "transfo-xl") != "transfo-xl":
    raise UserError(f"{path}: model_type is {one_line(repr(found['model_type']))}, not 'transfo-xl': choose another"
                    " model")
  c = _DEFAULTS | found
  for name, default in _DEFAULTS.items():
    if words := json_files.mismatch(c[name], list[int] if name == "cutoffs" else type(default)):
      raise UserError(f"{path}: {name} = {one_line(repr(c[name]))} must be {words}: correct it")
  for name, value in _ONLY.items():
    if c[name] != value and not (name == "sample_softmax" and c[name] <= 0):
      raise UserError(f"{path}: {name} = {c[name]} has no counterpart here: choose a model with {name} = {value}")
  share = c["proj_share_all_but_first"]
  ties = c.get("tie_projs", [False] + [share] * len(c["cutoffs"]))
  if json_files.mismatch(ties, list[bool]) or len(ties) != len(c["cutoffs"]) + 1:
    raise UserError(f"{path}: tie_projs = {one_line(repr(ties))} must have a truth value for each of the"
                    f" {len(c['cutoffs']) + 1} clusters that cutoffs = {one_line(c['cutoffs'])} makes: correct it")
  try:
    return _transformer_config(c, ties)
  except UserError as error:
    raise UserError(f"{path}: {one_line(error, 400)}") from error


def _transformer_config(c: Mapping[str, Any], ties: Sequence[bool]) -> TransformerConfig:
  return TransformerConfig(
      vocab_size=c["vocab_size"], num_layers=c["n_layer"], embed_dim=c["d_model"], num_heads=c["n_head"],
      head_dim=c["d_head"], mlp_dim=c["d_inner"], memory_length=c["mem_len"], same_length=c["same_length"],
      clamp_length=c["clamp_len"] if c["clamp_len"] > 0 else None, untie_biases=c["untie_r"], empty_memory="zeros",
      norm="layer", norm_position="post", norm_epsilon=c["layer_norm_epsilon"], activation="relu", mlp_bias=True,
      dropout_rate=c["dropout"], attention_dropout_rate=c["dropatt"], tie_embeddings=c["tie_word_embeddings"],
      output_bias=True, vocab_embed_dim=c["d_embed"], adaptive_cutoffs=tuple(c["cutoffs"]),
      adaptive_divisor=c["div_val"], tie_projections=tuple(ties))


def _sources(c: TransformerConfig) -> Iterator[tuple[str, Source]]:
  """The source of every parameter. Torch's kernels are [out, in]; query, key and value are one [3 H K, D]."""
  d, h, k, f = c.embed_dim, c.num_heads, c.head_dim, c.mlp_dim
  source = lambda name, *rest: Source((name,), *rest)
  layers = [f"transformer.layers.{i}" for i in range(c.num_layers)]
  biases = (("content_bias", "r_w_bias"), ("position_bias", "r_r_bias"))

  for i, layer in enumerate(layers):
    for part, name in enumerate(("query", "key", "value")):
      yield f"layers.{i}.attention.{name}", source(
          f"{layer}.dec_attn.qkv_net.weight", (3 * h * k, d), functools.partial(_part_of_qkv, part=part, heads=h))
    yield f"layers.{i}.attention.relative_key", source(
        f"{layer}.dec_attn.r_net.weight", (h * k, d), lambda w: w.T.reshape(d, h, k))
    yield f"layers.{i}.attention.out", source(
        f"{layer}.dec_attn.o_net.weight", (d, h * k), lambda w: w.T.reshape(h, k, d))
    if c.untie_biases:
      for ours, theirs in biases:
        yield f"layers.{i}.attention.{ours}", source(f"{layer}.dec_attn.{theirs}", (h, k))
    for ours, theirs, inputs, outputs in (("wi", "CoreNet.0", d, f), ("wo", "CoreNet.3", f, d)):
      yield f"layers.{i}.mlp.{ours}", source(f"{layer}.pos_ff.{theirs}.weight", (outputs, inputs), np.transpose)
      yield f"layers.{i}.mlp.{ours}_bias", source(f"{layer}.pos_ff.{theirs}.bias", (outputs,))
    for ours, theirs in (("attention_norm", "dec_attn"), ("mlp_norm", "pos_ff")):
      yield f"layers.{i}.{ours}.scale", source(f"{layer}.{theirs}.layer_norm.weight", (d,))
      yield f"layers.{i}.{ours}.bias", source(f"{layer}.{theirs}.layer_norm.bias", (d,))
  if not c.untie_biases:
    for ours, theirs in biases:
      copies = [f"{layer}.dec_attn.{theirs}" for layer in layers]
      yield ours, Source((f"transformer.{theirs}", *copies), (h, k))

  numbered = lambda name, i, count: f"vocabulary.{name}_{i}" if count > 1 else f"vocabulary.{name}"
  tables, clusters = len(c.tables), len(c.clusters)
  for i, (low, high, width) in enumerate(c.tables):
    table, kernel = f"transformer.word_emb.emb_layers.{i}.weight", f"crit.out_layers.{i}.weight"
    yield numbered("table", i, tables), Source(
        (table, kernel) if c.tie_embeddings else (table,), (high - low, width))
    if not c.tie_embeddings:
      yield numbered("output_kernel", i, tables), source(kernel, (high - low, width))
    yield numbered("output_bias", i, tables), source(f"crit.out_layers.{i}.bias", (high - low,))
    if c.has_projections:
      tied = [f"crit.out_projs.{j}" for j in ([i] if tables > 1 else range(clusters)) if c.tied_projections[j]]
      yield numbered("projection", i, tables), Source(
          (f"transformer.word_emb.emb_projs.{i}", *tied), (d, width), np.transpose)
  for i, (_, _, width) in enumerate(c.clusters):
    if c.has_projections and not c.tied_projections[i]:
      yield numbered("output_projection", i, clusters), source(f"crit.out_projs.{i}", (d, width))
  if clusters > 1:
    yield "vocabulary.cluster_kernel", source("crit.cluster_weight", (clusters - 1, c.vocab_embed_dim))
    yield "vocabulary.cluster_bias", source("crit.cluster_bias", (clusters - 1,))


def _part_of_qkv(joint: np.ndarray, part: int, heads: int) -> np.ndarray:
  """[3 H K, D] -> [D, H, K], one of the three."""
  return np.split(joint, 3)[part].T.reshape(joint.shape[1], heads, -1)


def read_words(directory: str | os.PathLike) -> list[str] | None:
  """The vocabulary's words in the order of their ids; None if the directory has no vocabulary file."""
  directory = pathlib.Path(directory)
  for name, read in (("vocab.txt", _read_text), ("vocab.pkl", _read_pickle), ("vocab.bin", _read_pickle)):
    if (path := directory / name).is_file():  # The first of several counts.
      words = read(path)
      _check_words(path, words)
      return words
  return None


def _read_text(path: pathlib.Path) -> list[str]:
  try:
    with open(path, encoding="utf-8") as file:
      return list(dict.fromkeys((line.split() or [""])[0] for line in file))
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 at byte {error.start}: copy it again") from error


def _read_pickle(path: pathlib.Path) -> list[Any]:
  vocabulary = torch_files.load(path, skip_unknown=True)
  words = vocabulary.get("idx2sym") if isinstance(vocabulary, dict) else None
  if not isinstance(words, list):
    raise UserError(f"{path} has no list idx2sym of words: copy it again")
  if vocabulary.get("lower_case") or vocabulary.get("delimiter") == "":
    raise UserError(f"{path}: vocabularies of lower case or of characters cannot be read: choose one of words")
  return words


def _check_words(path: pathlib.Path, words: list[Any]) -> None:
  if not words:
    raise UserError(f"{path} has no words: copy it again")
  seen = set[str]()
  for i, word in enumerate(words):
    if not isinstance(word, str):  # A list in lists may be too long to be shown.
      raise UserError(f"{path}: word {i} is a {type(word).__name__}: copy it again")
    if word.split() != [word] or word in seen or _SURROGATE.search(word):
      raise UserError(f"{path}: word {i}, {one_line(repr(word))}, is empty, has a blank inside, was there before or is"
                      " no text: copy it again")
    seen.add(word)
