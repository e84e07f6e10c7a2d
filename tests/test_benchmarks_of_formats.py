"""The rows of a model in every format, and how their speeds are taken; no model is trained here."""

import json

import pytest

from benchmarks import harness
from benchmarks.compression import formats
from benchmarks.media import runs


class Bench(runs.Bench):
  """Whose commands write files of known sizes."""

  def gpt4x(self, *arguments, **bindings):
    if arguments[0] == "export":
      output = self.folder / arguments[-1].rpartition("/")[2]
      output.mkdir()
      (output / f"model.{arguments[2].partition('=')[2]}").write_bytes(b"0" * 3000)
      (output / "run.py").write_bytes(b"0" * 500)
    return ""

  def evaluate(self, directory, *flags, **bindings):
    return {"bits_per_byte": 1.25}

  def call(self, function, *arguments):
    return 2_000_000


def test_the_rows(monkeypatch, tmp_path):
  speeds = {name: 100.0 * (1 + i) for i, name in enumerate([*formats.COMPRESSED, *formats.EXPORTED])}

  def alternate(sides, case, rounds):
    assert list(sides) == list(speeds) and rounds == 3 and case.folder == str(tmp_path)
    assert all(side.__name__ for side in sides.values())
    return {name: [{"tokens": speeds[name]}] * rounds for name in sides}

  monkeypatch.setattr(harness, "alternate", alternate)
  found = {row.name.removeprefix("compression/formats/"): row for row in formats.rows(Bench("", 1, tmp_path), 3, 10)}
  assert found["int8/size"].value == 2.0 and found["onnx/size"].value == pytest.approx(0.003)
  assert found["int4/bits_per_byte"].value == 1.25
  assert found["int8"].value == 200.0 and found["int8"].ratio == 2.0 and found["float32"].ratio == 1.0


def test_an_exported_model_decodes(monkeypatch, tmp_path):
  (tmp_path / "onnx").mkdir()
  (tmp_path / "onnx" / "config.json").write_text(json.dumps({"some": 1}))

  class Logits(list):
    def argmax(self):
      return self.index(max(self))

  class Decoder:
    def __init__(self, config, load):
      assert config == {"some": 1} and load == "load"

    def read(self, tokens):
      assert len(tokens) == 64
      return Logits([0, 1])

    def __call__(self, tokens):
      assert tokens == [1]
      return Logits([0, 1])

  module = type("Module", (), {"Model": Decoder, "load": "load"})
  monkeypatch.setattr(formats.exports, "load", lambda path: module)
  assert formats.exported("onnx", formats.Case(str(tmp_path), 4))()["tokens"] > 0
