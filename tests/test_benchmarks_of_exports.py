"""What the benchmark of exports measures, at a tiny size."""

import sys

from benchmarks.compression import exports


def test_differences_and_the_first_token(tmp_path, monkeypatch):
  monkeypatch.setattr(exports, "FORMATS", ["onnx"])
  sizes = dict(vocab_size=300, num_layers=2, embed_dim=16, num_heads=2, dtype="float32", window=24)
  assert exports.export(tmp_path, None, sizes) == 24
  assert 0 < exports.difference(tmp_path, "onnx", 24) < exports.DIFFERENCE
  assert 0 < exports.first_token(sys.executable, tmp_path / "onnx") < 60
