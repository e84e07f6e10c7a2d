"""Transformer-XL as transformers 4.35.2 has it: its tensors by their names, its forward pass in NumPy, its files.

Written from that package's own code, literally and in float64, and without torch; nothing of gpt4x is in it.
"""

import collections
import contextlib
import json
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import safetensors.numpy

SIZES = dict(vocab_size=30, d_model=8, n_head=2, d_head=6, d_inner=14, n_layer=2, mem_len=7)
DEFAULTS = dict(model_type="transfo-xl", cutoffs=[], div_val=1, d_embed=8, clamp_len=-1, same_length=False,
                untie_r=True, tie_word_embeddings=True, proj_share_all_but_first=True, attn_type=0, pre_lnorm=False,
                adaptive=True, sample_softmax=-1, dropout=0.1, dropatt=0.0, layer_norm_epsilon=1e-2, eos_token_id=0)
# Two values of each option, and 16 models in which any two options meet in all four ways.
OPTIONS = dict(cutoffs=([], [5, 12]), div_val=(1, 2), proj_share_all_but_first=(True, False),
               tie_word_embeddings=(True, False), same_length=(True, False), clamp_len=(-1, 4), d_embed=(8, 12),
               untie_r=(True, False))
GRID = [{name: values[(row & (column + 1)).bit_count() % 2] for column, (name, values) in enumerate(OPTIONS.items())}
        for row in range(16)]


def make_config(**changes):
  config = SIZES | DEFAULTS | changes
  share = config.pop("proj_share_all_but_first")
  return {"tie_projs": [False] + [share] * len(config["cutoffs"])} | config


def make_tensors(config, seed=0):
  """Random tensors, tied ones as one array under several names."""
  rng = np.random.default_rng(seed)
  tensors = {}

  def add(name, *shape, centre=0.0):
    tensors[name] = (centre + 0.4 * rng.normal(size=shape)).astype(np.float32)

  d, heads, f = config["d_model"], config["n_head"] * config["d_head"], config["d_inner"]
  embed, ends, div = config["d_embed"], _ends(config), config["div_val"]
  sizes = [(high - low, embed // div**i) for i, (low, high) in enumerate(zip(ends, ends[1:]))]
  projected = div > 1 or embed != d
  for i, (rows, width) in enumerate(sizes if div > 1 else [(config["vocab_size"], embed)]):
    table = f"transformer.word_emb.emb_layers.{i}.weight"
    add(table, rows, width)
    add(f"crit.out_layers.{i}.weight", rows, width)
    add(f"crit.out_layers.{i}.bias", rows)
    if config["tie_word_embeddings"]:
      tensors[f"crit.out_layers.{i}.weight"] = tensors[table]
    if projected:
      add(f"transformer.word_emb.emb_projs.{i}", d, width)
  for i, (_, width) in enumerate(sizes if projected else []):
    add(f"crit.out_projs.{i}", d, width)
    if config["tie_projs"][i]:
      tensors[f"crit.out_projs.{i}"] = tensors[f"transformer.word_emb.emb_projs.{i if div > 1 else 0}"]
  if len(sizes) > 1:
    add("crit.cluster_weight", len(sizes) - 1, embed)
    add("crit.cluster_bias", len(sizes) - 1)
  biases = ("r_w_bias", "r_r_bias")
  if not config["untie_r"]:
    for bias in biases:
      add(f"transformer.{bias}", config["n_head"], config["d_head"])
  for i in range(config["n_layer"]):
    layer = f"transformer.layers.{i}."
    for bias in biases:
      add(f"{layer}dec_attn.{bias}", config["n_head"], config["d_head"])
      if not config["untie_r"]:
        tensors[f"{layer}dec_attn.{bias}"] = tensors[f"transformer.{bias}"]
    add(f"{layer}dec_attn.qkv_net.weight", 3 * heads, d)
    add(f"{layer}dec_attn.o_net.weight", d, heads)
    add(f"{layer}dec_attn.r_net.weight", heads, d)
    add(f"{layer}pos_ff.CoreNet.0.weight", f, d)
    add(f"{layer}pos_ff.CoreNet.0.bias", f)
    add(f"{layer}pos_ff.CoreNet.3.weight", d, f)
    add(f"{layer}pos_ff.CoreNet.3.bias", d)
    for norm in ("dec_attn", "pos_ff"):
      add(f"{layer}{norm}.layer_norm.weight", d, centre=1.0)
      add(f"{layer}{norm}.layer_norm.bias", d)
  tensors["transformer.pos_emb.inv_freq"] = (1 / 10000 ** (np.arange(0.0, d, 2.0) / d)).astype(np.float32)
  return tensors


def without_copies(tensors):
  """As safetensors files have them: of tensors that are one, the first name alone."""
  first = {}
  for name, tensor in tensors.items():
    first.setdefault(id(tensor), name)
  return {name: tensors[name] for name in first.values()}


def forward(tensors, config, tokens, mems=None):
  """Log-probabilities [B, L, V] of tokens [B, L], and the mems, [B, M, D] for each layer."""
  w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
  d, n, k, m = config["d_model"], config["n_head"], config["d_head"], config["mem_len"]
  rows, qlen = tokens.shape
  if mems is None:
    mems = [np.zeros((rows, m, d))] * config["n_layer"]
  klen = m + qlen
  i, j = np.arange(qlen)[:, None], np.arange(klen)[None, :]
  hidden_from = j > i + m
  if config["same_length"]:
    hidden_from |= j <= i  # torch.tril with the diagonal mask_shift_len = qlen - (klen - mem_len) = 0.
  positions = np.arange(klen - 1, -1, -1.0)
  if config["clamp_len"] > 0:
    positions = np.minimum(positions, config["clamp_len"])
  angles = np.outer(positions, 1 / 10000 ** (np.arange(0.0, d, 2.0) / d))
  r = np.concatenate([np.sin(angles), np.cos(angles)], -1)

  x, new_mems = _embed(w, config, tokens), []
  for index in range(config["n_layer"]):
    layer = f"transformer.layers.{index}."
    cat = np.concatenate([mems[index], x], 1)
    new_mems.append(cat[:, -m:])
    q, key, v = np.split(cat @ w[layer + "dec_attn.qkv_net.weight"].T, 3, -1)
    q, key, v = (part.reshape(rows, klen, n, k) for part in (q, key, v))
    q = q[:, -qlen:]
    r_key = (r @ w[layer + "dec_attn.r_net.weight"].T).reshape(klen, n, k)
    ac = np.einsum("bind,bjnd->bnij", q + w[layer + "dec_attn.r_w_bias"], key)
    bd = np.einsum("bind,jnd->bnij", q + w[layer + "dec_attn.r_r_bias"], r_key)
    padded = np.concatenate([np.zeros((rows, n, qlen, 1)), bd], -1)  # _rel_shift.
    bd = padded.reshape(rows, n, klen + 1, qlen)[:, :, 1:].reshape(rows, n, qlen, klen)
    scores = np.where(hidden_from, -1e300, (ac + bd) / k**0.5)
    probabilities = np.exp(_log_softmax(scores))
    attended = np.einsum("bnij,bjnd->bind", probabilities, v).reshape(rows, qlen, n * k)
    x = _norm(w, config, layer + "dec_attn.", x + attended @ w[layer + "dec_attn.o_net.weight"].T)
    inner = np.maximum(0, x @ w[layer + "pos_ff.CoreNet.0.weight"].T + w[layer + "pos_ff.CoreNet.0.bias"])
    core = inner @ w[layer + "pos_ff.CoreNet.3.weight"].T + w[layer + "pos_ff.CoreNet.3.bias"]
    x = _norm(w, config, layer + "pos_ff.", x + core)
  return _adaptive_log_softmax(w, config, x), new_mems


def _embed(w, config, tokens):
  ends = _ends(config) if config["div_val"] > 1 else [0, config["vocab_size"]]
  x = np.zeros((*tokens.shape, config["d_model"]))
  for i, (low, high) in enumerate(zip(ends, ends[1:])):
    inside = (tokens >= low) & (tokens < high)
    rows = w[f"transformer.word_emb.emb_layers.{i}.weight"][tokens[inside] - low]
    if (projection := w.get(f"transformer.word_emb.emb_projs.{i}")) is not None:
      rows = rows @ projection.T
    x[inside] = rows
  return x * config["d_model"] ** 0.5


def _adaptive_log_softmax(w, config, x):
  ends, logits = _ends(config), []
  for i, (low, high) in enumerate(zip(ends, ends[1:])):
    if config["div_val"] == 1:
      weight, bias = w["crit.out_layers.0.weight"][low:high], w["crit.out_layers.0.bias"][low:high]
    else:
      weight, bias = w[f"crit.out_layers.{i}.weight"], w[f"crit.out_layers.{i}.bias"]
    if i == 0 and len(ends) > 2:
      weight = np.concatenate([weight, w["crit.cluster_weight"]])
      bias = np.concatenate([bias, w["crit.cluster_bias"]])
    projection = w.get(f"crit.out_projs.{i}")
    logits.append((x if projection is None else x @ projection) @ weight.T + bias)
  head = _log_softmax(logits[0])
  tails = [head[..., ends[1] + i, None] + _log_softmax(tail) for i, tail in enumerate(logits[1:])]
  return np.concatenate([head[..., :ends[1]], *tails], -1)


def _norm(w, config, prefix, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
  return x * w[prefix + "layer_norm.weight"] + w[prefix + "layer_norm.bias"]


def _log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _ends(config):
  return [0, *config["cutoffs"], config["vocab_size"]]


def write(directory, config, tensors, file_format="safetensors"):
  """Writes config.json and the weights: safetensors, or 'zip' or 'legacy' of torch.save."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "config.json").write_text(json.dumps(config))
  if file_format == "safetensors":
    safetensors.numpy.save_file(without_copies(tensors), directory / "model.safetensors")
  else:
    (torch_zip if file_format == "zip" else torch_legacy)(directory / "pytorch_model.bin", tensors)
  return directory


class _Tensor:
  """Pickles as a tensor of torch does."""

  def __init__(self, key, array):
    self.key, self.array = key, array

  def __reduce__(self):
    strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
    rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
    return rebuild, (_Storage(self), 0, self.array.shape, strides, False, collections.OrderedDict())


class _Storage:

  def __init__(self, tensor):
    self.tensor = tensor


class _Pickler(pickle.Pickler):

  def persistent_id(self, obj):
    if isinstance(obj, _Storage):
      return "storage", sys.modules["torch"].FloatStorage, obj.tensor.key, "cpu", obj.tensor.array.size, *self.view
    return None


@contextlib.contextmanager
def _torch_by_name():
  """While it lasts, pickles can name what they need of torch, which is not there."""
  torch, functions = types.ModuleType("torch"), types.ModuleType("torch._utils")
  torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
  functions._rebuild_tensor_v2 = lambda: None
  functions._rebuild_tensor_v2.__module__ = "torch._utils"
  functions._rebuild_tensor_v2.__qualname__ = functions._rebuild_tensor_v2.__name__ = "_rebuild_tensor_v2"
  saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
  sys.modules |= {"torch": torch, "torch._utils": functions}
  try:
    yield
  finally:
    for name, module in saved.items():
      sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def _pickle(file, tensors, view):
  """Writes the dictionary; returns the arrays behind its storages by key, tied tensors sharing one."""
  keys = {}
  wrapped = collections.OrderedDict(
      (name, _Tensor(keys.setdefault(id(array), str(len(keys))), array) if isinstance(array, np.ndarray) else array)
      for name, array in tensors.items())
  wrapped._metadata = {"version": 1}  # As state dicts have it.
  with _torch_by_name():
    pickler = _Pickler(file, protocol=2)
    pickler.view = view
    pickler.dump(wrapped)
  return {keys[id(array)]: array for array in tensors.values() if id(array) in keys}


def torch_zip(path, tensors):
  """The format since torch 1.6."""
  with zipfile.ZipFile(path, "w") as archive:
    with archive.open("archive/data.pkl", "w") as file:
      arrays = _pickle(file, tensors, ())
    archive.writestr("archive/byteorder", "little")
    for key, array in arrays.items():
      archive.writestr(f"archive/data/{key}", array.tobytes())
    archive.writestr("archive/version", "3\n")


def torch_legacy(path, tensors):
  """The format before."""
  with open(path, "wb") as file:
    for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
      pickle.dump(header, file, protocol=2)
    arrays = _pickle(file, tensors, (None,))
    pickle.dump(sorted(arrays), file, protocol=2)
    for key in sorted(arrays):
      file.write(struct.pack("<q", arrays[key].size) + arrays[key].tobytes())
