"""TransformerConfig: each wrong size or switch ends in one line, and defaults follow from one another."""

import jax
import jax.numpy as jnp
import pytest

from gpt4x.errors import UserError
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel

_SIZES = dict(vocab_size=20, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=16)


@pytest.mark.parametrize("changes, words", [
    (dict(num_heads=3), ["embed_dim = 8", "num_heads = 3", "head_dim"]),
    (dict(num_heads=0), ["num_heads = 0", "at least 1"]),
    (dict(attention_chunk=0), ["attention_chunk = 0", "at least 1"]),
    (dict(num_kv_heads=0), ["num_kv_heads = 0", "at least 1"]),
    (dict(num_heads=4, num_kv_heads=3), ["num_heads = 4", "num_kv_heads = 3"]),
    (dict(vocab_size=0), ["vocab_size = 0", "at least 1"]),
    (dict(num_layers=-1), ["num_layers = -1", "at least 1"]),
    (dict(memory_length=-4), ["memory_length = -4", "negative"]),
    (dict(memory_length=None), ["memory_length = None", "negative"]),
    (dict(eval_memory_length=-4), ["eval_memory_length = -4", "negative"]),
    (dict(positions="learned"), ["positions = 'learned'", "relative, rotary"]),
    (dict(norm="batch"), ["norm = 'batch'", "layer, rms"]),
    (dict(norm_position="middle"), ["norm_position = 'middle'", "pre, post"]),
    (dict(activation="tanh"), ["activation = 'tanh'", "relu, gelu, swiglu"]),
    (dict(dtype="float16"), ["dtype = 'float16'", "float32, bfloat16, auto"]),
    (dict(remat="all"), ["remat = 'all'", "none, full, dots"]),
    (dict(positions="rotary", head_dim=3), ["head_dim = 3", "even"]),
    (dict(embed_dim=9, num_heads=3), ["embed_dim = 9", "even"]),
    (dict(clamp_length=-1), ["clamp_length = -1"]),
    (dict(same_length=True), ["same_length", "memory_length"]),
    (dict(same_length=True, memory_length=4, eval_memory_length=0), ["same_length", "memory"]),
    (dict(dropout_rate=1.0), ["dropout_rate = 1.0"]),
    (dict(attention_dropout_rate=-0.1), ["attention_dropout_rate = -0.1"]),
    (dict(attention_dropout_rate=0.1, attention_kernel="flash"), ["attention_dropout_rate = 0.1", "'xla'"]),
    (dict(adaptive_cutoffs=(10, 5)), ["adaptive_cutoffs = (10, 5)", "rise"]),
    (dict(adaptive_cutoffs=(10, 20)), ["adaptive_cutoffs = (10, 20)", "vocab_size = 20"]),
    (dict(adaptive_cutoffs=(0, 5)), ["adaptive_cutoffs = (0, 5)"]),
    (dict(adaptive_cutoffs=(5, 10), adaptive_divisor=4), ["adaptive_divisor = 4", "3 clusters", "vocab_embed_dim = 8"]),
    (dict(vocab_embed_dim=0), ["vocab_embed_dim = 0", "at least 1"]),
    (dict(adaptive_cutoffs=(5, 10), tie_projections=(True, False)), ["tie_projections = (True, False)", "3 clusters"]),
    (dict(empty_memory="zero"), ["empty_memory = 'zero'", "masked, zeros"]),
    (dict(empty_memory="zeros", norm_position="pre"), ["empty_memory = 'zeros'", "norm_position = 'post'"]),
    (dict(adaptive_cutoffs=(5, 10), adaptive_divisor=0), ["adaptive_divisor = 0"]),
])
def test_a_wrong_value_is_one_line(changes, words):
  with pytest.raises(UserError) as error:
    TransformerConfig(**{**_SIZES, **changes})
  message, *from_gin = str(error.value).splitlines()
  assert not from_gin or "In call to configurable" in from_gin[0]
  for word in words:
    assert word in message


def test_one_dial_makes_the_sizes():
  config = TransformerConfig(vocab_size=32, num_heads=64, activation="swiglu")
  assert (config.num_layers, config.embed_dim, config.mlp_dim, config.head_dim) == (80, 8192, 28672, 128)
  assert TransformerConfig(vocab_size=32, num_heads=8, num_layers=3).mlp_dim == 4096


@pytest.mark.parametrize("changes, words", [
    (dict(num_experts=0), ["num_experts = 0", "at least 1"]),
    (dict(experts_per_token=5), ["experts_per_token = 5", "num_experts = 4"]),
    (dict(experts_per_token=0), ["experts_per_token = 0", "from 1"]),
    (dict(experts_per_token=1), ["normalize_weights = True", "False"]),
    (dict(period=0), ["period = 0", "at least 1"]),
    (dict(period=3), ["period = 3", "num_layers = 2"]),
    (dict(mlp_dim=0), ["mlp_dim = 0", "at least 1"]),
    (dict(num_shared_experts=-1), ["num_shared_experts = -1", "negative"]),
    (dict(capacity_factor=0.0), ["capacity_factor = 0.0", "None"]),
    (dict(scores="tanh"), ["scores = 'tanh'", "softmax or sigmoid"]),
    (dict(jitter=1.0), ["jitter = 1.0", "below 1"]),
    (dict(bias_rate=-0.1), ["bias_rate = -0.1", "negative"]),
])
def test_a_wrong_value_of_a_mixture_is_one_line(changes, words):
  with pytest.raises(UserError) as error:
    TransformerConfig(**_SIZES, moe=MoEConfig(**{"num_experts": 4, **changes}))
  for word in words:
    assert word in str(error.value).splitlines()[0]


def test_blocks_must_divide_the_layers_only_where_they_are_scanned():
  sizes = {**_SIZES, "num_layers": 5, "moe": MoEConfig(num_experts=4, period=2)}
  with pytest.raises(UserError, match="num_layers = 5 does not divide into blocks of MoEConfig.period = 2"):
    TransformerConfig(**sizes)
  assert TransformerConfig(**sizes, scan_layers=False).num_mixtures == 2


def test_counts_of_a_mixture_by_hand():
  dense = TransformerConfig(**_SIZES)
  mixed = TransformerConfig(**_SIZES, moe=MoEConfig(num_experts=4, period=2, mlp_dim=5, num_shared_experts=3))
  expert = 2 * 8 * 5
  shared = 2 * 8 * 15 + 15 + 8
  extra = 8 * 4 + shared - (2 * 8 * 16 + 16 + 8)  # The router and what all tokens share, less the MLP.
  assert mixed.num_params() - dense.num_params() == 4 * expert + extra
  assert mixed.num_active_params() - dense.num_params() == 2 * expert + extra
  assert dense.num_active_params() == dense.num_params()
  products = (2 + 3) * expert + 8 * 4 - 2 * 8 * 16
  assert mixed.flops_per_token(4, 6) - dense.flops_per_token(4, 6) == 2 * products


def test_defaults_follow():
  config = TransformerConfig(**_SIZES, memory_length=6)
  assert (config.head_dim, config.num_kv_heads, config.eval_memory_length) == (4, 2, 6)
  apart = TransformerConfig(**_SIZES, head_dim=3, num_kv_heads=1, memory_length=6, eval_memory_length=0)
  assert (apart.head_dim, apart.num_kv_heads, apart.eval_memory_length) == (3, 1, 0)


def test_equal_configs_hash_alike():
  """jax.jit takes a config as a static argument; gin gives cutoffs as a list."""
  one, other = (TransformerConfig(**_SIZES, adaptive_cutoffs=cutoffs) for cutoffs in ([5, 10], (5, 10)))
  assert one == other and hash(one) == hash(other)


_LARGE = dict(vocab_size=4000, num_layers=3, embed_dim=512, num_heads=4, head_dim=256, mlp_dim=1536, dtype="float32",
              scan_layers=False)  # Large enough for products to be nearly all the work; a loop would be counted once.


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory_length", [0, 384])
@pytest.mark.parametrize("changes", [
    dict(),
    dict(positions="rotary", activation="swiglu", num_kv_heads=2, norm_position="pre", norm="rms"),
    dict(adaptive_cutoffs=(1000, 2000), adaptive_divisor=4),
    dict(adaptive_cutoffs=(1000, 2000), vocab_embed_dim=768, tie_projections=True),
], ids=["paper", "modern", "adaptive", "projected"])
def test_flops_per_token_are_those_xla_counts(changes, memory_length, training):
  lm = LanguageModel(TransformerConfig(**{**_LARGE, **changes}))
  rows, length = 16, 256
  params = jax.eval_shape(lm.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  memory = jax.eval_shape(lambda: lm.initial_memory(rows, memory_length))
  score = lambda *args: lm.log_probs(*args)[0][..., 0].sum()
  compute = jax.grad(score) if training else score
  counted = jax.jit(compute).lower(params, tokens, memory).cost_analysis()["flops"] / (rows * length)
  expected = lm.config.flops_per_token(length, memory_length, training, causal=False)
  assert abs(counted / expected - 1) < 0.03  # R, norms and softmax are not in the formula.


def test_flops_per_token_by_hand():
  config = TransformerConfig(**_SIZES)  # D 8, HK 8, F 16, V 20, N 2
  layer = 4 * 8 * 8 + 2 * 8 * 16  # query, key, value, out; the MLP's two
  scores = 3 * 8 * (6 + 2.5)  # q k, q r and p v with the six of the memory and 1, 2, 3 or 4 of the segment
  memory = 2 * 8 * 8 * 6 / 4  # keys and values of six positions, shared by four tokens
  forward = 2 * (layer + scores) + 2 * memory + 8 * 20
  assert config.flops_per_token(4, 6) == 2 * forward
  # Backward: each product again for its input and for its kernel; the memory's for its kernel alone.
  assert config.flops_per_token(4, 6, training=True) == 2 * (3 * forward - 2 * memory)
