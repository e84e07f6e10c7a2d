"""The rows of a model in every format, and how their speeds are taken; no model is trained here."""

import pytest

from benchmarks import harness
from benchmarks.compression import decoding, formats
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


def test_an_exported_model_decodes():
  class Logits(list):
    def argmax(self):
      return self.index(max(self))

  class Decoder:
    fed: list = []

    def read(self, tokens):
      assert tokens == [7, 8]
      return Logits([0, 1, 0])

    def __call__(self, tokens):
      self.fed += tokens
      return Logits([0, 0, 1])

  assert decoding.greedy(decoder := Decoder(), [7, 8], 3)()["tokens"] > 0
  assert decoder.fed == [1, 2, 2]


def test_seeds_that_are_done_stay_done(tmp_path):
  asked = []
  bench = runs.Bench(".", 2, tmp_path)
  for _ in range(2):
    assert bench.each_seed(lambda seed: asked.append(seed) or {"bits": 2.0 + seed}, "measured") == [
        {"bits": 2.0}, {"bits": 3.0}]
  assert sorted(asked) == [0, 1]
  (tmp_path / "measured1.json").unlink()
  bench.each_seed(lambda seed: asked.append(seed) or {}, "measured")
  assert sorted(asked) == [0, 1, 1] and bench.each_seed(lambda seed: seed) == [0, 1]
