"""TransformerConfig: each wrong size or switch ends in one line, and defaults follow from one another."""

import pytest

from gpt4x.errors import UserError
from gpt4x.models.config import TransformerConfig

_SIZES = dict(vocab_size=20, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=16)


@pytest.mark.parametrize("changes, words", [
    (dict(num_heads=3), ["embed_dim = 8", "num_heads = 3", "head_dim"]),
    (dict(num_heads=0), ["num_heads = 0", "at least 1"]),
    (dict(num_kv_heads=0), ["num_kv_heads = 0", "at least 1"]),
    (dict(num_heads=4, num_kv_heads=3), ["num_heads = 4", "num_kv_heads = 3"]),
    (dict(vocab_size=0), ["vocab_size = 0", "at least 1"]),
    (dict(num_layers=-1), ["num_layers = -1", "at least 1"]),
    (dict(memory_length=-4), ["memory_length = -4", "negative"]),
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
    (dict(adaptive_cutoffs=(10, 5)), ["adaptive_cutoffs = (10, 5)", "rise"]),
    (dict(adaptive_cutoffs=(10, 20)), ["adaptive_cutoffs = (10, 20)", "vocab_size = 20"]),
    (dict(adaptive_cutoffs=(0, 5)), ["adaptive_cutoffs = (0, 5)"]),
    (dict(adaptive_cutoffs=(5, 10), adaptive_divisor=4), ["adaptive_divisor = 4", "3 clusters", "embed_dim = 8"]),
    (dict(adaptive_cutoffs=(5, 10), adaptive_divisor=0), ["adaptive_divisor = 0"]),
])
def test_a_wrong_value_is_one_line(changes, words):
  with pytest.raises(UserError) as error:
    TransformerConfig(**{**_SIZES, **changes})
  message, *from_gin = str(error.value).splitlines()
  assert not from_gin or "In call to configurable" in from_gin[0]
  for word in words:
    assert word in message


def test_defaults_follow():
  config = TransformerConfig(**_SIZES, memory_length=6)
  assert (config.head_dim, config.num_kv_heads, config.eval_memory_length) == (4, 2, 6)
  apart = TransformerConfig(**_SIZES, head_dim=3, num_kv_heads=1, memory_length=6, eval_memory_length=0)
  assert (apart.head_dim, apart.num_kv_heads, apart.eval_memory_length) == (3, 1, 0)


def test_equal_configs_hash_alike():
  """jax.jit takes a config as a static argument; gin gives cutoffs as a list."""
  one, other = (TransformerConfig(**_SIZES, adaptive_cutoffs=cutoffs) for cutoffs in ([5, 10], (5, 10)))
  assert one == other and hash(one) == hash(other)
