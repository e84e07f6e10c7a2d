"""What the benchmark of decoding with integers measures, at a tiny size."""

import pytest

from benchmarks.compression import decoding

SIZES = dict(vocab_size=300, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=32)


@pytest.mark.parametrize("side", [decoding.float32, decoding.int8_all, decoding.onnx_int8_all])
def test_a_side_gives_tokens_a_second(side):
  case = decoding.Case(tuple({**decoding.SIZES, **SIZES}.items()), window=12, steps=2)
  assert side(case)()["tokens"] > 0


def test_both_models_have_as_many_parameters():
  own = decoding.Case(tuple(decoding.SIZES.items()))
  llama = decoding.Case(tuple({**decoding.SIZES, **decoding.LLAMA}.items()))
  count, other = (decoding.config(case).num_params() for case in (own, llama))
  assert abs(count - other) < 0.05 * count


def test_the_peer_is_written(tmp_path):
  gguf = pytest.importorskip("gguf")
  sizes = {**decoding.SIZES, **decoding.LLAMA, **SIZES}
  decoding.write_gguf(decoding.Case(tuple(sizes.items()), window=12, folder=str(tmp_path)))
  assert gguf.GGUFReader(tmp_path / "model.gguf").fields["llama.context_length"].contents() == 12
