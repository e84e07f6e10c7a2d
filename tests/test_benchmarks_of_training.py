"""What the benchmarks of training count: bytes, windows, seconds, schedules. No side of theirs trains here."""

import dataclasses
import json
import math
import os
import pathlib

import jax
import numpy as np
import pytest

from benchmarks import equal_seconds, harness, plain, quickstart, run, torch_training, training
from benchmarks.harness import Row
from gpt4x.data import python_stdlib
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner

OURS = TransformerConfig(vocab_size=4096, num_layers=4, embed_dim=192, num_heads=4, mlp_dim=768, memory_length=64,
                         norm="rms", norm_position="pre", mlp_bias=False, tie_embeddings=False)


def test_a_measured_step_is_fed_as_the_loop_feeds_it(monkeypatch):
  devices, place = [], Partitioner.global_array
  monkeypatch.setattr(Partitioner, "global_array", lambda *arguments: devices.append(
      len((placed := place(*arguments)).sharding.device_set)) or placed)
  model = LanguageModel(TransformerConfig(vocab_size=16, num_layers=1, embed_dim=8, num_heads=2, memory_length=2))
  measure = training.our_steps(model, jax.device_count(), 2, steps=2)
  assert measure()["tokens"] > 0
  assert devices == [jax.device_count()] * 4 * 3  # Features, for the compilation and each step.


def test_a_function_runs_in_a_process_of_its_own():
  environment = {"GPT4X_HERE": "there"}
  assert harness.in_a_process(os.getenv, "GPT4X_HERE", environment=environment) == "there"
  assert "GPT4X_HERE" not in os.environ
  with pytest.raises(ZeroDivisionError):
    harness.in_a_process(divmod, 1, 0)


@pytest.mark.parametrize("length", [2, 8, 64])
@pytest.mark.parametrize("targets", [1, 2, 3, 7, 8, 9, 12, 63, 64, 65, 96, 97, 1000])
def test_windows_count_each_target_once_and_see_half_a_window_before_it(targets, length):
  found = torch_training.windows(targets, length)
  assert [target for _, counts, end in found for target in range(counts, end)] == list(range(targets))
  for start, counts, end in found:
    assert start <= counts < end <= min(start + length, targets)
    assert counts == start == 0 or counts - start == length // 2


def test_the_rate_rises_in_a_line_and_falls_to_zero():
  shares = np.linspace(0, 1, 1001)
  rates = np.array([torch_training.schedule(share) for share in shares])
  assert rates[0] == rates[-1] == torch_training.schedule(1.01) == 0
  assert rates.max() == 1 and shares[rates.argmax()] == torch_training.WARMUP
  assert np.allclose(np.diff(rates, 2)[np.abs(shares[1:-1] - torch_training.WARMUP) > 1e-9], 0)


def test_documents_stand_between_separators():
  documents = [b"a\n", "ü".encode()]
  stream = torch_training.stream_of(documents)
  assert stream.tolist() == [256, 97, 10, 256, 0xC3, 0xBC, 256]
  assert torch_training.tokens_of(documents[1]).tolist() == [256, 0xC3, 0xBC, 256]
  rows = torch_training.random_rows(stream, 50, 5, np.random.default_rng(0))
  assert {tuple(row) for row in rows} == {tuple(stream[:6]), tuple(stream[1:])}
  assert max(torch_training.VOCABULARY, 257) == torch_training.VOCABULARY


def test_the_corpus_is_the_bytes_of_each_file_in_its_split(tmp_path, monkeypatch):
  root, names = tmp_path / "lib", [f"file{i}.py" for i in range(200)]
  root.mkdir()
  for name in names:
    (root / name).write_bytes(f"# {name} é\r\n".encode())
  config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
  monkeypatch.setattr(python_stdlib.PythonStdlib, "BUILDER_CONFIGS", [dataclasses.replace(config, root=root)])
  quickstart.write_corpus(str(tmp_path))
  for split in ("train", "validation", "test"):
    files = [(root / name).read_bytes() for name in sorted(names) if python_stdlib.split_of(name) == split]
    assert quickstart.read_corpus(str(tmp_path), split) == files and files


def test_the_quickstart_is_that_of_the_makefile():
  commands = quickstart.commands("some/run")
  assert [command[3] for command in commands if command[3] != "vocabulary"] == ["train", "eval", "generate", "report"]
  train, = filter(quickstart.is_train, commands)
  assert "--model_dir=some/run" in train
  assert '--prompt=def main(' in commands[-2]  # As the shell reads it.


def report(step, rate):
  return {"step": step, "split": "train", "steps_per_second": rate, "loss": 1.0}


def evaluation(step, bits, num_bytes):
  return {"step": step, "split": "validation", "loss": bits * num_bytes * math.log(2) / 70, "tokens": 70.0,
          "bits_per_byte": bits}


def test_seconds_are_those_of_all_steps():
  lines = [evaluation(0, 8.0, 99), report(10, 5.0), evaluation(15, 3.0, 9), report(20, 2.0), report(23, 1.0)]
  assert quickstart.seconds(lines) == 2 + 5 + 3
  assert quickstart.seconds(lines, after=10) == 8
  assert quickstart.seconds(lines, after=15) == 2.5 + 3


def test_a_run_is_what_its_last_evaluation_says():
  lines = [evaluation(0, 8.0, 99), report(10, 5.0), report(20, 2.5), evaluation(20, 1.75, 431_402)]
  found = quickstart.trained(lines)
  assert found == quickstart.Trained(1.75, 431_402, 6.0, 20)
  quickstart.check_bytes(found.num_bytes, [b"a" * 431_400, b"bb"])
  with pytest.raises(ValueError, match="431402 bytes, but the held-out documents have 431401"):
    quickstart.check_bytes(found.num_bytes, [b"a" * 431_401])
  with pytest.raises(ValueError, match="evaluated at step 20, but trained to 30"):
    quickstart.trained([*lines, report(30, 5.0)])


def test_the_error_is_that_of_the_mean():
  mean, error = quickstart.mean_and_error([1.0, 2.0, 3.0])
  assert mean == 2 and error == pytest.approx(1 / 3**0.5)
  assert quickstart.mean_and_error([1.5]) == (1.5, None)


def test_our_runs_take_the_seconds_and_no_more(tmp_path, monkeypatch):
  speeds = iter([20.0, 10.0, 10.2, 12.0, 11.9, 11.7])  # Of the calibration and of each run; two miss the seconds.
  made = []

  def train(command, data_dir, **bindings):
    made.append(bindings)
    where, steps, speed = command[-1].partition("=")[2], bindings["TRAIN_STEPS"], next(speeds)
    pathlib.Path(where).mkdir()
    lines = [report(10, 1.0 if bindings["EVAL_PERIOD"] is None else speed),  # What is slow at first is left out.
             report(steps, speed), evaluation(steps, 1.5, 100)]
    pathlib.Path(where, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

  monkeypatch.setattr(quickstart, "run", train)
  monkeypatch.setattr(quickstart, "read_corpus", lambda folder, split: [b"a" * 100])
  monkeypatch.setattr(quickstart, "commands", lambda run: [["", "", "", "train", f"--model_dir={run}"]])
  found = equal_seconds.our_runs(str(tmp_path), equal_seconds.Settings(seconds=100), 3)
  assert [one.steps for one in found] == [1000, 1200, 1190]
  assert all(95 <= one.seconds <= 102 for one in found)
  assert [bindings.get("SEED") for bindings in made] == [None, 0, 0, 1, 1, 2]
  assert all(bindings["EVAL_PERIOD"] == bindings["TRAIN_STEPS"] for bindings in made[1:])


@pytest.mark.parametrize("tables", [True, False])
def test_the_peer_has_at_most_our_parameters(tables):
  theirs = equal_seconds.decoder_config(OURS, tables)
  step = 3 * 16 * 192 * 4  # Of the widths that it may have.
  vocabulary = 0 if tables else 2 * 192 * (4096 - torch_training.VOCABULARY)
  assert 0 <= OURS.num_params() - vocabulary - theirs.num_params() < step
  assert (theirs.positions, theirs.memory_length, theirs.num_layers, theirs.embed_dim) == ("rotary", 0, 4, 192)


def test_what_is_tried_around_the_best_differs_in_one_thing():
  case = equal_seconds.Case("", "small", "fused", 50, 2e-3, 128)
  for other in equal_seconds.neighbours(case, "whole"):
    assert sum(a != b for a, b in zip(dataclasses.astuple(case), dataclasses.astuple(other))) == 1
    assert other.tokens % other.length == 0


def test_rows_of_several_groups_share_a_section(tmp_path):
  row = Row("train/equal_seconds", 1.61234, "bits/byte", 1.7, 0.95, error=0.00321, goal="ratio < 1.0")
  described = dict(rounds=3, commit="abc", machine="here", date="2026-01-01")
  run.keep([row, Row("newcomer/x", 1.0, "s")], described, tmp_path)
  text = (tmp_path / "RESULTS.md").read_text()
  assert "| train/equal_seconds | 1.612 ± 0.003 | bits/byte | 1.7 | 0.95 |" in text
  assert text.count("## train") == text.count("## newcomer") == 1
  before_table = text.partition("| what |")[0]
  assert plain.__doc__.strip() in before_table and equal_seconds.__doc__.strip() in before_table


def test_bits_of_the_peer_are_of_each_byte_once():
  torch = pytest.importorskip("torch")
  from benchmarks import torch_decoder
  config = dataclasses.replace(plain.config(), vocab_size=torch_training.VOCABULARY, num_layers=1, embed_dim=16,
                               num_heads=2, head_dim=8, num_kv_heads=2, vocab_embed_dim=16, mlp_dim=16)
  trainer = torch_training.Trainer(config, 2, 8, "fused", weight_decay=0.1, b2=0.99, seed=3)
  torch.manual_seed(3)
  fresh = torch_decoder.Decoder(config, torch.float32, 8).state_dict()
  parameters = trainer.model.state_dict()
  assert all(torch.equal(fresh[name], parameters[name]) for name in fresh)  # What is compiled trains nothing.
  documents = [b"short", bytes(range(100)), b"x"]
  long, counted = torch_training.bits_per_byte(config, parameters, documents, 256)  # Each in one window.
  nats = 0.0
  for document in documents:
    model = torch_decoder.Decoder(config, torch.float32, len(document) + 1)
    model.load_state_dict(parameters)
    tokens = torch.from_numpy(torch_training.tokens_of(document))[None]
    nats += float(model.loss(tokens[:, :-1], tokens[:, 1:])) * (len(document) + 1)
  assert counted == 106 and long == pytest.approx(nats / math.log(2) / 106, rel=1e-5)
  assert torch_training.bits_per_byte(config, parameters, documents, 16)[1] == 106
  trainer.step(np.full((2, 9), 7), 1e-2)
  assert torch_training.bits_per_byte(config, trainer.model.state_dict(), [b"\7" * 20], 16)[0] < (
      torch_training.bits_per_byte(config, parameters | fresh, [b"\7" * 20], 16)[0])
