"""Llama, Mistral, Qwen2 and Qwen3: the numbers of tests/interop/llama.py, and the same tensors in and out."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import seqio

from gpt4x import cli
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.interop import decoding_weights, hugging_face, tokenizer_files
from gpt4x.models.config import MoEConfig
from tests.interop import llama
from tests.models import tiny

LENGTH = 12


def tokens_of(config, length=LENGTH):
  return np.random.default_rng(1).integers(0, config["vocab_size"], length, dtype=np.int32)


def read(directory, **changes):
  return hugging_face.load(directory, dtype="float32", **changes)


def tensors_in(directory):
  found = {}
  for path in sorted(directory.glob("*.safetensors")):
    found |= safetensors.numpy.load_file(path)
  return found


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, tensor in expected.items():
    assert found[name].dtype == tensor.dtype
    np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def step_by_step(model, params, tokens, start):
  """Logits after tokens `start` to the last, each by a decoding step behind a prefilled beginning."""
  memory = model.initial_memory(1, len(tokens), projected=True)
  ids = np.ones((1, start), np.int32)
  logits, memory = model.prefill(params, tokens[None, :start], ids, memory)
  cache, found = model.start_decoding(params, memory), [logits[0]]
  step = tiny.jit(model.decode_step)
  for token in tokens[start:]:
    logits, cache = step(params, token[None], cache)
    found.append(logits[0])
  return np.array(found)


@pytest.mark.parametrize("family", llama.FAMILIES)
def test_logits_at_once_and_token_by_token(family, tmp_path):
  config = llama.make_config(family)
  tensors, tokens = llama.make_tensors(config), tokens_of(config)
  scan = family != "qwen3"
  model, params = read(llama.write(tmp_path, config, tensors), scan_layers=scan)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.config.num_params()
  assert model.config.memory_length == 0 and model.config.eval_memory_length == 32
  expected = llama.forward(tensors, config, tokens)
  logits, _ = tiny.jit(model.logits)(params, tokens[None], model.initial_memory(1))
  np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-4)
  np.testing.assert_allclose(step_by_step(model, params, tokens, 4), expected[3:], rtol=0, atol=1e-4)
  rounded = type(model)(dataclasses.replace(model.config, memory_dtype="int8"), form=None)
  near = step_by_step(rounded, params, tokens, 4) - expected[3:]
  assert 0 < np.abs(near).max() < 0.3


@pytest.mark.parametrize("family", llama.FAMILIES)
def test_out_again_bit_for_bit(family, tmp_path):
  """In shards or in one file; and what is read of either is the model that was written."""
  config = llama.make_config(family)
  tensors = llama.make_tensors(config)
  model, params = read(llama.write(tmp_path / "in", config, tensors, shards=3))
  named = decoding_weights.named(params)
  for name, size in (("one", hugging_face.SHARD_BYTES), ("shards", 1500)):
    out = tmp_path / name
    hugging_face.save(out, model.config, named, 64, size)
    assert_same(tensors_in(out), tensors)
    written = json.loads((out / "config.json").read_text())
    assert written["max_position_embeddings"] == 64 and written["head_dim"] == model.config.head_dim
    expected = "LlamaForCausalLM" if family == "mistral" else config["architectures"][0]
    assert written["architectures"] == [expected]
    again, others = read(out)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, others, params)
  files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
  assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 3
  index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
  assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
  assert set(index["weight_map"].values()) == set(files) and set(index["weight_map"]) == set(tensors)
  sizes = [sum(tensors[one].nbytes for one, file in index["weight_map"].items() if file == name) for name in files]
  assert all(size <= 1500 for size in sizes)
  with safetensors.safe_open(tmp_path / "one" / "model.safetensors", framework="numpy") as file:
    assert file.metadata() == {"format": "pt"}
  with pytest.raises(UserError, match="is there already"):
    hugging_face.save(tmp_path / "shards", model.config, named, 64)


OURS = dict(positions="rotary", norm="rms", norm_position="pre", activation="swiglu", mlp_bias=False, num_kv_heads=2)


@pytest.mark.parametrize("changes", [
    dict(scale_embeddings=False), dict(scale_embeddings=False, tie_embeddings=False, qkv_bias=True),
    dict(scale_embeddings=False, qk_norm=True, scan_layers=False), dict(), dict(tie_embeddings=False)], ids=str)
def test_ours_out_and_in(changes, tmp_path):
  """Bit for bit; but where embeddings are scaled, that goes into the table, which is then no longer tied."""
  made = tiny.make(**OURS, **changes)
  hugging_face.save(tmp_path, made.config, decoding_weights.named(made.params), 16)
  model, params = read(tmp_path, scan_layers=made.config.scan_layers)
  if not made.config.scale_embeddings:
    assert dataclasses.replace(model.config, eval_memory_length=0, loss_chunk=None) == made.config
    jax.tree.map(np.testing.assert_array_equal, params, made.params)
  tokens = tiny.random_tokens(made.config, 6)
  expected, _ = made.lm.logits(made.params, tokens, made.lm.initial_memory(len(tokens)))
  config = json.loads((tmp_path / "config.json").read_text())
  for row, logits in zip(tokens, expected):
    found = llama.forward(tensors_in(tmp_path), config, row)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
  logits, _ = model.logits(params, tokens, model.initial_memory(len(tokens)))
  np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("changes, words", [
    ({"positions": "relative"}, "positions is 'relative', and 'rotary' there"), ({"norm": "layer"}, "norm is 'layer'"),
    ({"norm_position": "post"}, "norm_position is 'post'"), ({"activation": "relu"}, "activation is 'relu'"),
    ({"mlp_bias": True}, "mlp_bias is True"), ({"output_bias": True}, "output_bias is True"),
    ({"moe": MoEConfig(num_experts=2)}, "moe is MoEConfig"), ({"adaptive_cutoffs": (3,)}, r"adaptive_cutoffs is \(3,"),
    ({"share_layers": 2}, "share_layers is 2"), ({"vocab_embed_dim": 4}, "vocab_embed_dim is 4, and 8"),
    ({"qkv_bias": True, "qk_norm": True}, "qk_norm is True beside qkv_bias = True"),
], ids=str)
def test_what_is_none_of_the_family_is_not_written(changes, words, tmp_path):
  config = tiny.make(**{**OURS, **changes}).config
  with pytest.raises(UserError, match=f"Llama's family: {words}") as error:
    hugging_face.save(tmp_path / "out", config, {}, 16)
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("family, changes, words", [
    ("llama", dict(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "rope_scaling = {'rope_type': 'llama3'"),
    ("llama", dict(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling = {'type': 'linear'"),
    ("llama", dict(rope_scaling="linear"), "rope_scaling = 'linear'"),
    ("qwen3", dict(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "rope_parameters = {'rope_type': 'yarn'"),
    ("qwen3", dict(rope_parameters={"full_attention": {"rope_type": "default"}}), "rope_parameters = {'full_att"),
    ("llama", dict(attention_bias=True), "attention_bias = True"), ("qwen3", dict(attention_bias=True), "attention_b"),
    ("llama", dict(mlp_bias=True), "mlp_bias = True"), ("llama", dict(hidden_act="gelu"), "hidden_act = 'gelu'"),
    ("llama", dict(pretraining_tp=2), "pretraining_tp = 2"),
    ("llama", dict(quantization_config={"bits": 4}), "quantization_config = {'bits': 4}"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
    ("mistral", dict(sliding_window=16), "sliding_window = 16"),
    ("qwen2", dict(use_sliding_window=True), "use_sliding_window = True"),
    ("qwen3", dict(layer_types=["full_attention", "sliding_attention"]), "layer_types = ['full_attention', 'slid"),
    ("llama", dict(architectures=["GPT2LMHeadModel"], model_type="gpt2"), "architectures = ['GPT2LMHeadModel']"),
    ("llama", dict(architectures=None), "architectures = None"),
    ("llama", dict(model_type="mistral"), "model_type = 'mistral'"),
    ("llama", dict(num_hidden_layers="two"), "num_hidden_layers = 'two' must be a whole number"),
    ("llama", dict(max_position_embeddings=0), "max_position_embeddings = 0"),
    ("llama", dict(num_key_value_heads=3), "does not divide over num_kv_heads = 3"),
    ("llama", dict(rope_theta=-1.0), "rotary_base = -1.0"),
], ids=str)
def test_what_has_no_counterpart_is_one_line(family, changes, words, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(llama.make_config(family) | changes))
  with pytest.raises(UserError, match=re.escape(words)) as error:
    read(tmp_path)
  assert str(error.value).startswith(f"{tmp_path}/config.json: ") and "\n" not in str(error.value)
  assert len(str(error.value)) < 600


@pytest.mark.parametrize("changes", [
    dict(sliding_window=64), dict(rope_scaling={"rope_type": "default"}), dict(num_key_value_heads=None)], ids=str)
def test_what_changes_nothing_is_read(changes, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(llama.make_config("mistral") | changes))
  config = hugging_face.read_config(tmp_path / "config.json")
  assert config.num_kv_heads == (4 if "num_key_value_heads" in changes else 2)


@pytest.mark.parametrize("positions, segment, memory", [(1, 1, 0), (65, 33, 32), (2048, 512, 1536), (40960, 512, 3584)])
def test_segment_and_memory_are_what_a_text_may_have(positions, segment, memory, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(llama.make_config("llama", max_position_embeddings=positions)))
  config = hugging_face.read_config(path)
  assert hugging_face.segment_length(path) == segment
  assert (config.memory_length, config.eval_memory_length) == (0, memory)


ODD = (True, None, 0.5, "2", [2], {}, -1, 2**31, 10**400, float("nan"), [[]], "x" * 10_000)


@pytest.mark.parametrize("name", [*llama.SIZES, "architectures", "rope_scaling", "layer_types", "head_dim",
                                  "tie_word_embeddings", "sliding_window", "quantization_config"])
def test_odd_values_are_one_short_line_or_the_model(name, tmp_path):
  config = llama.make_config("mistral")
  llama.write(tmp_path, config, llama.make_tensors(config))
  for value in ODD:
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    try:
      hugging_face.load(tmp_path)
    except UserError as error:
      assert str(error).startswith(str(tmp_path)) and len(str(error).splitlines()) == 1 and len(str(error)) < 1000


def test_weights_that_do_not_fit(tmp_path):
  config = llama.make_config("llama")
  tensors = llama.make_tensors(config)
  older = tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}
  read(llama.write(tmp_path / "older", config, older))
  for change, words in (
      (lambda found: found.pop("lm_head.weight"), "the tensor lm_head.weight is missing"),
      (lambda found: found.update({"lm_head.weight": np.ones((30, 7), np.float32)}), "is [30, 7], and [30, 8] by"),
      (lambda found: found.update({"model.layers.0.self_attn.q_proj.bias": np.ones(8, np.float32)}), "q_proj.bias is")):
    changed = dict(tensors)
    change(changed)
    with pytest.raises(UserError, match=re.escape(words)):
      read(llama.write(tmp_path, config, changed))
  tied = tensors | {"lm_head.weight": np.zeros((30, 8), np.float32)}
  with pytest.raises(UserError, match="model.embed_tokens.weight and lm_head.weight differ"):
    read(llama.write(tmp_path, config | {"tie_word_embeddings": True}, tied))


# The command line.

def run(capsys, *argv):
  """What a command that succeeds prints, and what it says on standard error."""
  status = cli.main([str(argument) for argument in argv])
  captured = capsys.readouterr()
  assert status == 0, captured.err
  return captured.out, captured.err


def test_the_commands(tmp_path, capsys):
  config = llama.make_config("smollm")
  tensors = llama.make_tensors(config)
  source = llama.write(tmp_path / "hf", config, tensors, shards=2)
  llama.write_tokenizer(source)
  model = f"--model_dir={tmp_path}/run"
  out, err = run(capsys, "convert", "--from=huggingface", f"--input={source}", model)
  assert "parameters" in out and "no vocabulary" not in err
  assert (tmp_path / "run" / "chat_template.jinja").read_text() == llama.TEMPLATE
  vocabulary = vocabularies.load(tmp_path / "run")
  assert (vocabulary.eos_id, vocabulary.bos_id, vocabularies.start_id(vocabulary)) == (2, 1, 1)

  text, _ = run(capsys, "generate", model, "--prompt=w3 w5", "--max_tokens=6", "--temperature=0")
  ids = [1, 6, 8]
  for _ in range(6):
    logits = llama.forward(tensors, config, ids)[-1, :23]
    ids.append(int(logits.argmax()))
    if ids[-1] == 2:
      break
  words = vocabulary.decode(ids[3:])
  assert text.split() == ["w3", "w5", *words.split()]

  (tmp_path / "text.txt").write_text("w1 w2 w3 w4\n" * 3)
  (tmp_path / "train.txt").write_text("w5\n")
  data = [f"--gin.LocalText.files='{tmp_path}/train.txt'", f"--gin.LocalText.validation_files='{tmp_path}/text.txt'"]
  out, _ = run(capsys, "eval", model, *data)
  found = {name: float(value) for name, value in (line.split() for line in out.splitlines())}
  ids = np.array([1, *vocabulary.encode((tmp_path / "text.txt").read_text()), 2])
  logits = llama.forward(tensors, config, ids[:-1])
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(found["loss"], -log_probs[np.arange(len(ids) - 1), ids[1:]].mean(), rtol=1e-5)

  run(capsys, "export", model, f"--output={tmp_path}/out", "--format=huggingface")
  assert_same(tensors_in(tmp_path / "out"), tensors)
  written = json.loads((tmp_path / "out" / "config.json").read_text())
  for name in ("max_position_embeddings", "bos_token_id", "eos_token_id", "rope_theta", "tie_word_embeddings"):
    assert written[name] == config[name]
  for name in ("tokenizer.json", "tokenizer_config.json"):
    assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
  assert (tmp_path / "out" / "chat_template.jinja").read_text() == llama.TEMPLATE
  run(capsys, "convert", "--from=huggingface", f"--input={tmp_path}/out", f"--model_dir={tmp_path}/again")
  assert vocabularies.spec(vocabularies.load(tmp_path / "again")) == vocabularies.spec(vocabulary)
  assert cli.main(["export", model, f"--output={tmp_path}/out", "--format=huggingface"]) == 1
  assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("files, ends, template", [
    ({}, ("</s>", "<s>"), None),  # By the ids of config.json.
    ({"tokenizer_config.json": {"eos_token": "w1", "bos_token": None}}, ("w1", "<s>"), None),
    ({"special_tokens_map.json": {"eos_token": {"content": "w2"}, "bos_token": "w3"}}, ("w2", "w3"), None),
    ({"config.json": {"eos_token_id": [5, 2]}}, ("w2", "w2"), None), ({"config.json": {}}, (None, None), None),
    ({"tokenizer_config.json": {"chat_template": [{"name": "tool", "template": "a"},
                                                  {"name": "default", "template": "b"}]}}, ("</s>", "<s>"), "b"),
    ({"tokenizer_config.json": {"chat_template": "b"}, "chat_template.jinja": "c"}, ("</s>", "<s>"), "c"),
], ids=str)
def test_where_special_tokens_and_template_are(files, ends, template, tmp_path):
  llama.write_tokenizer(tmp_path)
  (tmp_path / "tokenizer_config.json").unlink()
  (tmp_path / "config.json").write_text(json.dumps(llama.SIZES))
  for name, content in files.items():
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
  vocabulary = tokenizer_files.vocabulary(tmp_path)
  assert (vocabulary.arguments["eos"], vocabulary.arguments.get("bos")) == ends
  kept = tokenizer_files.kept(tmp_path)
  assert kept.get("chat_template.jinja") == (None if template is None else template.encode())


def test_special_tokens_that_are_none(tmp_path):
  llama.write_tokenizer(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(llama.SIZES))
  for value, words in ((5, "tokenizer_config.json: eos_token = 5 must be text"), ("<end>", "has no token '<end>'")):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": value}))
    with pytest.raises(UserError, match=words):
      tokenizer_files.vocabulary(tmp_path)


def test_another_vocabulary_goes_along(tmp_path):
  """As a model directory keeps it; a tokenizer of one's own run says its special tokens in transformers' way."""
  vocabularies.save(seqio.ByteVocabulary(), tmp_path / "bytes")
  found = tokenizer_files.found(tmp_path / "bytes")
  assert found.fields == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
  found.write(tmp_path / "out")
  assert vocabularies.spec(tokenizer_files.vocabulary(tmp_path / "out")) == vocabularies.spec(seqio.ByteVocabulary())
  llama.write_tokenizer(tmp_path)
  vocabularies.save(vocabularies.HuggingFaceVocabulary(tmp_path / "tokenizer.json", "w4", "w5"), tmp_path / "own")
  found = tokenizer_files.found(tmp_path / "own")
  assert found.fields == {"bos_token_id": 8, "eos_token_id": 7}
  (tmp_path / "again").mkdir()
  found.write(tmp_path / "again")
  described = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
  assert described == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w4", "bos_token": "w5"}
  assert tokenizer_files.vocabulary(tmp_path / "again").arguments == {"eos": "w4", "bos": "w5"}


def test_without_a_tokenizer(tmp_path, capsys):
  config = llama.make_config("qwen3")
  llama.write(tmp_path / "hf", config, llama.make_tensors(config))
  model = f"--model_dir={tmp_path}/run"
  _, err = run(capsys, "convert", "--from=huggingface", f"--input={tmp_path}/hf", model)
  assert "has no vocabulary, so" in err
  run(capsys, "export", model, f"--output={tmp_path}/out", "--format=huggingface")
  assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
