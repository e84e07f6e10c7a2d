"""Directories of Hugging Face: the same numbers as theirs, and one line that names the tensor in a malformed one."""

import collections
import json
import pickle
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from gpt4x.errors import UserError
from gpt4x.interop import transfo_xl
from tests.interop import hugging_face
from tests.interop.test_tensor_files import Evil
from tests.models import tiny

LENGTH, ROWS = 5, 2
FORMATS = ("safetensors", "zip", "legacy")


def run(model, params, tokens, memory=None, step=LENGTH):
  """Log-probabilities [B, T, V] of T tokens, L at a time, memory carried; None starts as `log_probs` does."""
  log_probs = tiny.jit(model.log_probs)
  parts = []
  memory = model.initial_memory(len(tokens)) if memory is None else memory
  for start in range(0, tokens.shape[1], step):
    part, memory = log_probs(params, tokens[:, start:start + step], memory)
    parts.append(part)
  return np.concatenate(parts, 1)


def expected(config, tensors, tokens, step=LENGTH):
  parts, mems = [], None
  for start in range(0, tokens.shape[1], step):
    part, mems = hugging_face.forward(tensors, config, tokens[:, start:start + step], mems)
    parts.append(part)
  return np.concatenate(parts, 1)


def random_tokens(config, segments=4):
  return np.random.default_rng(1).integers(0, config["vocab_size"], (ROWS, segments * LENGTH), dtype=np.int32)


@pytest.mark.parametrize("row", range(len(hugging_face.GRID)))
def test_log_probs_over_four_segments(row, tmp_path):
  config = hugging_face.make_config(**hugging_face.GRID[row])
  tensors = hugging_face.make_tensors(config)
  hugging_face.write(tmp_path, config, tensors, FORMATS[row % 3])
  model, params = transfo_xl.from_hugging_face(tmp_path, scan_layers=row % 2 == 0, dtype="float32")
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.config.num_params()
  tokens = random_tokens(config)
  np.testing.assert_allclose(run(model, params, tokens), expected(config, tensors, tokens), rtol=0, atol=5e-5)


@pytest.fixture(name="config", scope="module")
def _config():
  return hugging_face.make_config(cutoffs=[5, 12], div_val=2, d_embed=12)


@pytest.fixture(name="tensors", scope="module")
def _tensors(config):
  return hugging_face.make_tensors(config)


def test_memory_of_keys_and_values(config, tensors, tmp_path):
  """What evaluation and decoding carry."""
  model, params = transfo_xl.from_hugging_face(hugging_face.write(tmp_path, config, tensors), dtype="float32")
  tokens = random_tokens(config)
  found = run(model, params, tokens, model.initial_memory(ROWS, projected=True))
  np.testing.assert_allclose(found, expected(config, tensors, tokens), rtol=0, atol=5e-5)


def test_every_format_gives_the_same(config, tensors, tmp_path):
  """Shards too, and half precision, of which the parameters are the float32 values."""
  halves = {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in tensors.items()}
  _, params = transfo_xl.from_hugging_face(hugging_face.write(tmp_path / "one", config, halves))
  sharded = hugging_face.write(tmp_path / "shards", config, {})
  (sharded / "model.safetensors").unlink()
  kept = hugging_face.without_copies(tensors)
  shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(kept)}
  for shard in set(shards.values()):
    safetensors.numpy.save_file(
        {name: tensor.astype(np.float16) for name, tensor in kept.items() if shards[name] == shard}, sharded / shard)
  (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
  directories = [sharded, *(hugging_face.write(tmp_path / name, config, halves, name) for name in ("zip", "legacy"))]
  for directory in directories:
    _, others = transfo_xl.from_hugging_face(directory)
    jax.tree.map(np.testing.assert_array_equal, params, others)
  (sharded / "model-1.safetensors").unlink()
  with pytest.raises(UserError, match=r"model-1.safetensors, which has the tensor \S+, is missing"):
    transfo_xl.from_hugging_face(sharded)


QKV = "transformer.layers.1.dec_attn.qkv_net.weight"


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("change, words", [
    (lambda tensors: tensors.pop(QKV), f"the tensor {QKV} is missing"),
    (lambda tensors: tensors.update({QKV: np.ones((36, 9), np.float32)}), f"the tensor {QKV} is [36, 9], and [36, 8]"),
    (lambda tensors: tensors.update({"score.weight": np.ones(2, np.float32)}), "the tensor score.weight is none of"),
    (lambda tensors: tensors.update({"crit.out_projs.1": np.ones((8, 6), np.float32)}),
     "transformer.word_emb.emb_projs.1 and crit.out_projs.1 differ"),
], ids=["missing", "shape", "unknown", "tied"])
def test_a_malformed_file_is_one_line_that_names_the_tensor(config, tensors, file_format, change, words, tmp_path):
  tensors = dict(tensors)
  change(tensors)
  hugging_face.write(tmp_path, config, tensors, file_format)
  with pytest.raises(UserError, match=re.escape(words)) as error:
    transfo_xl.from_hugging_face(tmp_path)
  assert "\n" not in str(error.value)


def test_no_weights(config, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="no weights in .*model.safetensors or pytorch_model.bin"):
    transfo_xl.from_hugging_face(tmp_path)


@pytest.mark.parametrize("changes, words", [
    (dict(pre_lnorm=True), "pre_lnorm = True has no counterpart"), (dict(attn_type=2), "attn_type = 2"),
    (dict(adaptive=False), "adaptive = False"), (dict(sample_softmax=100), "sample_softmax = 100"),
    (dict(model_type="gpt2"), "model_type is 'gpt2'"), (dict(n_layer="two"), "n_layer = 'two' must be a whole number"),
    (dict(tie_projs=[True]), "tie_projs = [True]"), (dict(cutoffs=[12, 5]), "adaptive_cutoffs = (12, 5) must rise"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else None)
def test_a_configuration_without_counterpart(config, tensors, changes, words, tmp_path):
  with pytest.raises(UserError, match=re.escape(words)):
    transfo_xl.from_hugging_face(hugging_face.write(tmp_path, config | changes, tensors))


ODD = (True, None, 0.5, "2", [2], {}, -1, 2**31, 10**12, 10**400, float("nan"), float("inf"), [[]], "x" * 10_000)


@pytest.mark.parametrize("name",
                         ["vocab_size", "n_layer", "n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val",
                                  "layer_norm_epsilon", "dropout", "cutoffs", "tie_projs", "untie_r", "model_type"])
def test_odd_values_of_a_configuration(name, config, tensors, tmp_path):
  """Each is refused by one short line that names the file, or makes the model that is there; nothing large is made."""
  hugging_face.write(tmp_path, config, tensors)
  path = tmp_path / "config.json"
  read = set()
  for value in ODD:
    path.write_text(json.dumps(config | {name: value}))
    try:
      transfo_xl.from_hugging_face(tmp_path)
      read.add(value)
    except UserError as error:
      assert str(error).startswith(str(tmp_path)) and len(str(error).splitlines()) == 1 and len(str(error)) < 1000
  assert read == {"untie_r": {True}, "dropout": {0.5}, "layer_norm_epsilon": {0.5}}.get(name, set())


def test_sizes_that_the_weights_cannot_have(config, tensors, tmp_path):
  """They are compared with the bytes there are, before a model is made of them."""
  directory = hugging_face.write(tmp_path, config, tensors)
  size = (directory / "model.safetensors").stat().st_size
  for changes in (dict(n_layer=10**9), dict(n_layer=2000), dict(d_inner=10**9), dict(vocab_size=10**9),
                  dict(d_head=10**9)):
    (directory / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=rf"model.safetensors: {size:,} bytes are too few for the [\d.e+]+ parameters"):
      transfo_xl.from_hugging_face(directory)


def test_other_names_and_defaults(tmp_path):
  with pytest.raises(UserError, match="config.json is missing"):
    transfo_xl.from_hugging_face(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(dict(n_token=50, cutoffs=[10], hidden_size=32, clamp_len=0)))
  config = transfo_xl.read_config(tmp_path / "config.json")
  assert (config.vocab_size, config.embed_dim, config.clamp_length, config.tie_projections) == (
      50, 32, None, (False, True))
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json is not a whole JSON file"):
    transfo_xl.read_config(tmp_path / "config.json")


def test_a_pickle_runs_nothing(tmp_path, capsys):
  (tmp_path / "vocab.pkl").write_bytes(pickle.dumps({"idx2sym": ["a"], "tokenizer": Evil()}))
  assert transfo_xl.read_words(tmp_path) == ["a"]
  assert capsys.readouterr().out == ""


WORDS = ["<eos>", "<unk>", "the", "ünïcödé", ","]


def test_vocabulary_files(tmp_path):
  assert transfo_xl.read_words(tmp_path) is None
  state = {"counter": collections.Counter(WORDS), "special": ["<eos>"], "lower_case": False, "delimiter": None,
           "idx2sym": WORDS, "sym2idx": collections.OrderedDict((word, i) for i, word in enumerate(WORDS))}
  hugging_face.torch_legacy(tmp_path / "vocab.bin", state)
  assert transfo_xl.read_words(tmp_path) == WORDS
  hugging_face.torch_legacy(tmp_path / "vocab.pkl", state | {"idx2sym": WORDS[:3]})  # Torch's, in spite of its name.
  assert transfo_xl.read_words(tmp_path) == WORDS[:3]
  (tmp_path / "vocab.pkl").write_bytes(pickle.dumps(state | {"pattern": re.compile("a")}))
  assert transfo_xl.read_words(tmp_path) == WORDS
  (tmp_path / "vocab.pkl").write_bytes(pickle.dumps(state | {"lower_case": True}))
  with pytest.raises(UserError, match="vocab.pkl: vocabularies of lower case"):
    transfo_xl.read_words(tmp_path)
  (tmp_path / "vocab.txt").write_text("<eos> 5\nthe 3\n the\nof\n", encoding="utf-8")
  assert transfo_xl.read_words(tmp_path) == ["<eos>", "the", "of"]


@pytest.mark.parametrize("words, message", [
    (["a", ["b"]], "word 1 is a list"), (["a", 1], "word 1 is a int"), (["a", "a"], "word 1, 'a', is empty"),
    (["a b"], "word 0, 'a b'"), ([""], "word 0, ''"), (["\ud800"], "word 0, '.ud800'"), ([], "has no words"),
    ("ab", "no list"),
    (["x" * 10_000 + " "], "word 0, 'xxx")], ids=str)
def test_words_that_are_none(words, message, tmp_path):
  (tmp_path / "vocab.pkl").write_bytes(pickle.dumps({"idx2sym": words}))
  with pytest.raises(UserError, match=f"^{tmp_path}/vocab.pkl.*{message}") as error:
    transfo_xl.read_words(tmp_path)
  assert len(str(error.value)) < 1000


def test_a_word_that_is_too_long_to_be_shown(tmp_path):
  """A list of two lists of two lists, sixty deep, whose text has 2^60 letters."""
  (tmp_path / "vocab.pkl").write_bytes(b"}Vidx2sym\n]" + b"]" + b"p1\n0](g1\ng1\ne" * 60 + b"as.")
  with pytest.raises(UserError, match="word 0 is a list"):
    transfo_xl.read_words(tmp_path)


def test_vocab_txt_that_is_none(tmp_path):
  for content, message in ((b"a\n\xff", "is not UTF-8 at byte 2"), (b"a\n\nb\n", "word 1, ''"), (b"", "has no words")):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/vocab.txt.*{message}"):
      transfo_xl.read_words(tmp_path)
