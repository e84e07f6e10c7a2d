"""What the benchmarks of compression count; no model is trained here."""

import json
import pathlib

import pytest

from benchmarks import quickstart, run
from benchmarks.compression import distillation, quality, training_products
from benchmarks.harness import Row


@pytest.mark.parametrize("tokens, seconds", [(2.4, 2.2), (2.1, 2.5)])
def test_the_share_of_the_gap_is_against_the_best_that_the_student_is_alone(monkeypatch, tokens, seconds):
  """In as many seconds: where a run was too short, another of more steps is made."""
  asked = []

  def trained(bench, name, steps, bindings, evaluations=1):
    asked.append(steps)
    if "distilled" in name:
      return 2.0, 20.0
    return (tokens, 10.0) if "tokens" in name else (seconds, steps * (0.09 if len(asked) == 3 else 0.1))

  monkeypatch.setattr(distillation, "trained", trained)
  found = distillation.closed(None, "one", 1.5, 100, {})
  assert asked == [100, 100, 200, round(200 * 1.02 * 20 / 18)]
  share = lambda alone: 100 * (alone - 2.0) / (alone - 1.5)
  assert found.equal_tokens == pytest.approx(share(tokens))
  assert found.equal_seconds == pytest.approx(share(min(tokens, seconds)))


def test_speeds_of_training_products_are_against_the_first(monkeypatch):
  rounds = {"compute": [100.0, 300.0, 200.0], "int8": [250.0, 300.0, 350.0]}

  def alternate(sides, case, count, environment):
    assert list(sides) == ["compute", "int8"] and count == 3
    return {name: [{"tokens": one, "device_memory": 2.0} for one in rounds[name]] for name in sides}

  monkeypatch.setattr(training_products.harness, "alternate", alternate)
  case = training_products.Case("a", None, rows=4, length=50, steps=5, tiny=True, gradients="all")
  compute, int8 = training_products.measure(case, ["compute", "int8"], 3)
  assert compute == {"form": "compute", "step_ms": 1000.0, "tokens_per_second": 200.0, "speed": 1.0, "gib": 2.0}
  assert int8["speed"] == 1.5


def test_a_teacher_that_is_no_better_leaves_nothing_to_measure(monkeypatch):
  monkeypatch.setattr(distillation, "trained", lambda *arguments, **_: (2.0, 10.0))
  with pytest.raises(RuntimeError, match="leaves no gap"):
    distillation.closed(None, "one", 2.1, 100, {})


def test_the_little_text_is_of_the_training_documents_alone(monkeypatch, tmp_path):
  documents = {"train": [b"%06d" % i * 500 for i in range(90)] + [b"x" * 30_000], "validation": [b"held out"]}
  monkeypatch.setattr(quickstart, "write_corpus", lambda folder: None)
  monkeypatch.setattr(quickstart, "read_corpus", lambda folder, split: list(documents[split]))
  distillation.write(str(tmp_path))
  read = lambda name: [json.loads(line)["text"].encode() for line in (tmp_path / name).read_text().splitlines()]
  assert len(read("train.jsonl")) == 128_000 // 3000 and set(read("train.jsonl")) <= set(documents["train"][:90])
  assert read("validation.jsonl") == documents["validation"]


def test_what_compress_prints_is_read():
  found = quality.table("""                  before       after
loss              2.6246      2.6438
bits/byte         1.2316      1.2407
KL, nats                     0.02265
same top 1                    90.84%
wrote runs/small: step 550, 779,776 bytes of parameters (0.142 of 5,510,656)
""")
  assert found == {"loss": 2.6438, "bits/byte": 1.2407, "KL, nats": 0.02265, "same top 1": 90.84, "size": 0.142}


def test_damage_and_what_is_won_back(monkeypatch):
  """The figures of one model, by what its directories are found to be."""
  class Bench:
    folder = pathlib.Path("x")
    gpt4x = lambda self, *flags: "\nsame top 1                    99.5%\nwrote (0.26 of 9)"
    train = lambda self, name, gin_file, **bindings: name
    evaluate = lambda self, directory: {"bits_per_byte": {
        "model0": 2.0, "x/magnitude0": 3.0, "x/wanda0": 2.5, "x/sparsegpt0": 2.2, "x/int40": 2.02, "x/rounded0": 2.04,
        "recovered_500": 2.04}.get(directory, 2.001)}

  found = quality.measured(Bench(), 0, {}, 9)
  expected = {"int4_bits_per_byte_change": 1, "rounded": 2, "wanda_damage_closed": 50, "sparsegpt_damage_closed": 80,
              "recovered_50": 2, "int8_top1": 99.5, "int8_size": 0.26, "int8_bits_per_byte_change": 0.05}
  assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("dry_run", [True, False])
def test_rows_of_seeds_are_printed_and_kept_as_they_come(monkeypatch, capsys, dry_run):
  """What was measured before a failure stays."""
  kept = []
  monkeypatch.setattr(run, "keep", lambda rows, described: kept.append((rows, described)))
  first = Row("compression/one", 31.25, "%", error=0.5, goal="value >= 30")

  def rows():
    yield first
    raise RuntimeError("the machine is gone")

  with pytest.raises(RuntimeError, match="gone"):
    run.keep_seeds(rows(), 3, "python -m benchmarks.one", dry_run)
  assert capsys.readouterr().out == "compression/one 31.25 ± 0.5 %; value >= 30: True\n"
  assert [rows for rows, _ in kept] == ([] if dry_run else [[first]])
  assert all(found["seeds"] == found["rounds"] == 3 and found["command"] == "python -m benchmarks.one"
             for _, found in kept)
