"""Models as GGUF files: read back, they compute by Llama's equations what JAX does; their vocabularies."""

import numpy as np
import pytest
import seqio

from gpt4x import cli
from gpt4x.compression.quantization import Quantization
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.interop import decoding_weights, exports, gguf_files
from gpt4x.models.config import MoEConfig
from tests.models import tiny

gguf = pytest.importorskip("gguf")

LLAMA = dict(positions="rotary", norm="rms", norm_position="pre", activation="swiglu", mlp_bias=False)
STYLES = {
    "grouped": dict(LLAMA, num_kv_heads=2, tie_embeddings=False), "tied": LLAMA,
    "unscaled": dict(LLAMA, scale_embeddings=False, tie_embeddings=False),
    "shared": dict(LLAMA, num_layers=4, share_layers=2, num_kv_heads=1), "apart": dict(LLAMA, scan_layers=False)}
LARGE = dict(LLAMA, vocab_size=300, embed_dim=64, head_dim=16, mlp_dim=96)


def save(made, folder, **options):
  gguf_files.save(folder, made.config, decoding_weights.named(made.params), 32, **options)
  return gguf.GGUFReader(folder / "model.gguf")


def arrays(reader):
  return {one.name: gguf.quants.dequantize(one.data, one.tensor_type).astype(np.float64) for one in reader.tensors}


def llama(reader, tokens):
  """The logits [L, V] of a file, in float64, by what it says of itself."""
  field = lambda name: reader.fields[f"llama.{name}"].contents()
  found, epsilon = arrays(reader), field("attention.layer_norm_rms_epsilon")
  heads, groups, size = field("attention.head_count"), field("attention.head_count_kv"), field("attention.key_length")

  def norm(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * scale

  def rotated(x):  # [L, heads, K]: neighbours are a pair.
    angles = np.arange(len(x))[:, None] * field("rope.freq_base") ** (-np.arange(0, size, 2) / size)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

  x = found["token_embd.weight"][tokens]
  length = len(tokens)
  for i in range(field("block_count")):
    own = lambda name, i=i: found[f"blk.{i}.{name}.weight"]
    normed = norm(x, own("attn_norm"))
    split = lambda name, own=own, normed=normed: (normed @ own(name).T).reshape(length, -1, size)
    query, key, value = rotated(split("attn_q")), rotated(split("attn_k")), split("attn_v")
    key, value = (np.repeat(one, heads // groups, 1) for one in (key, value))
    scores = np.einsum("qhk,thk->hqt", query, key) / np.sqrt(size)
    weights = np.exp(np.where(np.tri(length), scores, -np.inf))
    mixed = np.einsum("hqt,thk->qhk", weights / weights.sum(-1, keepdims=True), value)
    x = x + mixed.reshape(length, -1) @ own("attn_output").T
    normed = norm(x, own("ffn_norm"))
    gate = normed @ own("ffn_gate").T
    x = x + (gate / (1 + np.exp(-gate)) * (normed @ own("ffn_up").T)) @ own("ffn_down").T
  return norm(x, found["output_norm.weight"]) @ found["output.weight"].T


def expected(made, tokens):
  logits, _ = made.lm.logits(made.params, np.array([tokens]), made.lm.initial_memory(1, 0))
  return logits[0]


@pytest.mark.parametrize("style", STYLES)
def test_logits_are_those_of_llama(style, tmp_path):
  made = tiny.make(**STYLES[style])
  tokens = tiny.random_tokens(made.config, 12)[0]
  np.testing.assert_allclose(llama(save(made, tmp_path), tokens), expected(made, tokens), atol=1e-4)


@pytest.mark.parametrize("kind, bits, tolerance", [("gguf-f16", 16, 0.01), ("gguf-q8_0", 8.5, 0.3)])
def test_fewer_bits(kind, bits, tolerance, tmp_path):
  """Matrices have them, norms stay; what has no whole blocks of 32 stays too."""
  made = tiny.make(**LARGE)
  reader = save(made, tmp_path, kind=kind)
  whole = save(made, tmp_path / "whole")
  for one, other in zip(reader.tensors, whole.tensors, strict=True):
    assert one.n_bytes * 8 == (bits if len(one.shape) == 2 else 32) * one.n_elements, one.name
    near, exact = (gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in (one, other))
    np.testing.assert_allclose(near, exact, atol=np.abs(exact).max() / 230)
  tokens = tiny.random_tokens(made.config, 8)[0]
  assert np.abs(llama(reader, tokens) - expected(made, tokens)).mean() < tolerance
  narrow = save(tiny.make(**LLAMA), tmp_path / "narrow", kind="gguf-q8_0")
  assert {one.tensor_type for one in narrow.tensors} == {gguf.GGMLQuantizationType.F32}


def test_integers_are_the_numbers_that_they_stand_for(tmp_path):
  made = tiny.make(**LARGE)
  _, declarations = made.lm.declared
  params = Quantization(stored=True)(made.params, declarations)
  named = decoding_weights.named(params)
  gguf_files.save(tmp_path, made.config, named, 32)
  found = arrays(gguf.GGUFReader(tmp_path / "model.gguf"))
  np.testing.assert_allclose(found["blk.1.ffn_down.weight"], decoding_weights.dense(named["layers.1.mlp.wo"]).T)
  assert np.abs(found["output.weight"] - np.asarray(made.params["vocabulary"]["table"])).max() > 1e-4


@pytest.mark.parametrize("changes, words", [
    ({"positions": "relative"}, "positions is 'relative', and 'rotary' there"),
    ({"norm": "layer"}, "norm is 'layer'"), ({"norm_position": "post"}, "norm_position is 'post'"),
    ({"activation": "relu"}, "activation is 'relu'"), ({"mlp_bias": True}, "mlp_bias is True"),
    ({"qkv_bias": True}, "qkv_bias is True"), ({"qk_norm": True}, "qk_norm is True"),
    ({"output_bias": True}, "output_bias is True"), ({"moe": MoEConfig(num_experts=2)}, "moe is MoEConfig"),
    ({"adaptive_cutoffs": (3,)}, r"adaptive_cutoffs is \(3,\)"),
    ({"vocab_embed_dim": 4}, "vocab_embed_dim is 4, and 8"),
])
def test_what_is_no_llama_is_refused(changes, words):
  with pytest.raises(UserError, match=f"Llama's architecture: {words}"):
    gguf_files.check(tiny.make(**{**LLAMA, **changes}).config, None)


def test_a_vocabulary_of_another_kind_is_refused():
  with pytest.raises(UserError, match="needs a SentencePiece vocabulary, and this is a ByteVocabulary"):
    gguf_files.check(tiny.make(**LLAMA).config, seqio.ByteVocabulary())


def test_a_run_becomes_a_file_with_its_vocabulary(tmp_path, capsys):
  text = ["so many words as a vocabulary needs, and some more of them"] * 9
  vocabularies.train_sentencepiece(text, 290, tmp_path / "it.model")
  vocabulary = seqio.SentencePieceVocabulary(str(tmp_path / "it.model"))
  made = tiny.make(**LARGE)
  exports.save(tmp_path / "plain", made.lm, made.params)
  vocabularies.save(vocabulary, tmp_path / "plain")
  run, out = f"--model_dir={tmp_path}/run", f"--output={tmp_path}/llama"
  assert cli.main(["convert", "--from=safetensors", f"--input={tmp_path}/plain", run]) == 0
  assert cli.main(["export", run, out, "--format=gguf-q8_0"]) == 0
  assert f"Try: llama-cli -m {tmp_path}/llama/model.gguf -p TEXT" in capsys.readouterr().out
  reader = gguf.GGUFReader(tmp_path / "llama" / "model.gguf")
  field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
  tokenizer, tokens = vocabulary.tokenizer, field("tokens")
  size = tokenizer.get_piece_size()
  assert tokens[:size] == [tokenizer.id_to_piece(i) for i in range(size)] and len(tokens) == made.config.vocab_size
  np.testing.assert_allclose(field("scores")[:size], [tokenizer.get_score(i) for i in range(size)])
  kinds = field("token_type")
  for i in range(made.config.vocab_size):
    kind = gguf.TokenType.UNUSED if i >= size or tokenizer.is_unused(i) else (
        gguf.TokenType.CONTROL if tokenizer.is_control(i) else gguf.TokenType.UNKNOWN if tokenizer.is_unknown(i)
        else gguf.TokenType.BYTE if tokenizer.is_byte(i) else None)
    assert kinds[i] == kind or (kind is None and kinds[i] in (gguf.TokenType.NORMAL, gguf.TokenType.USER_DEFINED))
  assert (field("bos_token_id"), field("eos_token_id"), field("add_bos_token")) == (0, vocabulary.eos_id, True)
  assert cli.main(["export", run, out, "--format=gguf"]) == 1
  assert "model.gguf is there already" in capsys.readouterr().err
