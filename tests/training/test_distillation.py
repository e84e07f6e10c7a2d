"""Runs with a teacher, by the commands: trained, stopped, moved, evaluated, planned."""

import json
import math
import re
import shutil

import jax
import pytest

from gpt4x import cli
from gpt4x.checkpoints import frozen_models, integrity
from gpt4x.models import saved_model
from gpt4x.partitioning import Partitioner
from tests.integration import corpus
from tests.integration.faults import trail

ONE_DEVICE = dict(Partitioner__data=1, Partitioner__num_devices=1)
TEACHER = ONE_DEVICE | dict(TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=None, TransformerConfig__embed_dim=12,
                            TransformerConfig__num_layers=2, TransformerConfig__memory_length=16)
STUDENT = ONE_DEVICE | dict(TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=4, EVAL_STEPS=1, train__microbatches=2,
                            OBJECTIVE=corpus.Reference("@Distillation()"), TransformerConfig__loss_chunk=5)
OTHER = "has other parameters at step 4 than this run has had, from step 4 of"


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  """A corpus, a teacher, and a student of four steps."""
  folder = tmp_path_factory.mktemp("made")
  corpus.write(folder / "text")
  assert cli.main(corpus.flags(folder / "text", folder / "teacher", **TEACHER)) == 0
  assert cli.main(student(folder, folder / "run")) == 0
  return folder


def student(folder, run, **bindings):
  return corpus.flags(folder / "text", run, **STUDENT | {"Distillation__teacher": str(folder / "teacher")} | bindings)


def copied(made, tmp_path):
  shutil.copytree(made / "run", tmp_path / "run")
  return tmp_path / "run"


def last_line(capsys):
  return capsys.readouterr().err.splitlines()[-1]


def evaluated(capsys, run, *flags):
  assert cli.main(["eval", f"--model_dir={run}", *flags]) == 0
  out, err = capsys.readouterr()
  return {name: float(value) for name, value in map(str.split, out.splitlines())}, err


def test_a_run_that_stops_goes_on_as_if_it_had_not(made, tmp_path):
  """From its directory alone, bit for bit."""
  assert cli.main(student(made, tmp_path / "run", TRAIN_STEPS=2)) == 0
  assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=4"]) == 0
  found = trail(tmp_path / "run")
  assert [line for line in found if "validation" not in str(line)] == [
      line for line in trail(made / "run") if "validation" not in str(line)]
  assert found[-1] == trail(made / "run")[-1] and "validation" in str(found[-1])


def test_eight_devices_are_one(made, tmp_path):
  """On the data, and in some of the steps on what the student draws."""
  mesh = {"Partitioner__num_devices": None, "Partitioner__data": 2, "Partitioner__fsdp": 2, "Partitioner__tensor": 2}
  losses = lambda run: [(line["loss"], line["distillation"], line["on_policy"]) for line in map(
      json.loads, (run / "metrics.jsonl").read_text().splitlines())]
  plain = dict(EVAL_PERIOD=None, train__microbatches=1, TransformerConfig__dropout_rate=0.0,
               Distillation__on_policy=0.5)
  assert cli.main(student(made, tmp_path / "one", **plain)) == 0
  assert cli.main(student(made, tmp_path / "eight", **plain | mesh)) == 0
  assert losses(tmp_path / "eight") == [pytest.approx(one, rel=1e-4) for one in losses(tmp_path / "one")]
  assert {sampled for *_, sampled in losses(tmp_path / "one")} == {0.0, 1.0}


def test_a_run_on_its_own_samples_goes_on_as_if_it_had_not(made, tmp_path):
  """Bit for bit: what is drawn follows from the seed and the step. Some of the microbatches are of samples."""
  sampling = dict(EVAL_PERIOD=None, Distillation__on_policy=0.5, Distillation__prompt_length=5,
                  Distillation__divergence="jsd", TRAIN_STEPS=6)
  assert cli.main(student(made, tmp_path / "whole", **sampling)) == 0
  assert cli.main(student(made, tmp_path / "run", **sampling | dict(TRAIN_STEPS=3))) == 0
  assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=6"]) == 0
  assert trail(tmp_path / "run") == trail(tmp_path / "whole")
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert {0.0, 0.5, 1.0} >= {line["on_policy"] for line in lines} and 0 < sum(line["on_policy"] for line in lines) < 6


def test_a_compressed_model_teaches(made, tmp_path, capsys):
  """Its integers stay such; it says almost what the model does that it was made of."""
  assert cli.main(["compress", f"--model_dir={made}/teacher", f"--output={tmp_path}/small", "--quantize=int8",
                   "--max_batches=0"]) == 0
  assert cli.main(student(made, tmp_path / "run", Distillation__teacher=str(tmp_path / "small"))) == 0
  lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
           for run in (tmp_path / "run", made / "run")]
  for one, other in zip(*lines, strict=True):
    assert one["distillation"] == pytest.approx(other["distillation"], rel=0.02)
    assert one["loss"] == pytest.approx(other["loss"], rel=0.01)
  assert lines[0][1]["distillation"] != lines[1][1]["distillation"]
  record = json.loads((tmp_path / "run" / "checkpoints" / "4" / "checkpoint.json").read_text())["record"]
  assert record["frozen"]["teacher"][0] == str(tmp_path / "small")
  assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=5"]) == 0
  held = frozen_models.load(models := {"teacher": saved_model.read("Distillation.teacher", str(tmp_path / "small"))},
                            frozen_models.find(models, {}), Partitioner(data=1, num_devices=1))
  assert any(leaf.dtype == "int8" for leaf in jax.tree.leaves(held))
  assert cli.main(["teach", f"--model_dir={tmp_path}/small", f"--output={tmp_path}/taught", "--top_k=4"]) == 0


def test_a_run_goes_on_with_its_teacher_alone(made, tmp_path, capsys):
  """Though it has moved, or has trained on since."""
  run, teacher = copied(made, tmp_path), tmp_path / "moved"
  shutil.copytree(made / "teacher", teacher)
  named = f"--gin.Distillation.teacher='{teacher}'"
  assert cli.main(["train", f"--model_dir={teacher}", "--gin.TRAIN_STEPS=6"]) == 0
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=5", named]) == 0
  record = json.loads((run / "checkpoints" / "5" / "checkpoint.json").read_text())["record"]
  assert record["frozen"]["teacher"][:2] == [str(teacher), 4]
  capsys.readouterr()
  before = {path: path.read_bytes() for path in run.rglob("*.json*")}
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=6",
                   f"--gin.Distillation.teacher='{made / 'run'}'"]) == 1
  assert OTHER in last_line(capsys)
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=6", "--gin.Distillation.step=6"]) == 1
  assert OTHER.replace("step 4 than", "step 6 than") in last_line(capsys)
  shutil.rmtree(teacher)
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=6"]) == 1
  assert "Distillation.teacher = " in (line := last_line(capsys)) and "has no config.gin: name" in line
  assert {path: path.read_bytes() for path in before} == before


def test_an_earlier_checkpoint_that_names_no_teacher_goes_on(made, tmp_path):
  run = copied(made, tmp_path)
  path = run / "checkpoints" / "4" / "checkpoint.json"
  record = json.loads(path.read_text())["record"]
  del record["frozen"]
  path.write_text(json.dumps({"crc32": integrity._crc32_of_json(record), "record": record}))
  assert cli.main(["train", f"--model_dir={run}", "--gin.TRAIN_STEPS=5"]) == 0
  assert len(trail(run)) > len(trail(made / "run"))


def test_evaluation_has_the_teacher_and_needs_none(made, tmp_path, capsys):
  capsys.readouterr()
  found, _ = evaluated(capsys, made / "run")
  assert found["distillation"] > 0 and found["bits_per_byte"] > 0
  plain, _ = evaluated(capsys, made / "run", "--gin.OBJECTIVE=@NextToken()")
  assert "distillation" not in plain and plain["loss"] == pytest.approx(found["loss"], rel=1e-5)
  itself, err = evaluated(capsys, made / "run", f"--gin.Distillation.teacher='{made / 'run'}'")
  assert itself["distillation"] == pytest.approx(0, abs=1e-6) and itself["loss"] == pytest.approx(found["loss"])
  assert OTHER in err and "warning" in err
  run = copied(made, tmp_path)
  assert cli.main(["eval", f"--model_dir={run}", "--gin.Distillation.teacher='nowhere'"]) == 2
  assert last_line(capsys).startswith("gpt4x: error: --gin.Distillation.teacher='nowhere': Distillation.teacher = ")
  (run / "config.gin").write_text((run / "config.gin").read_text().replace(str(made / "teacher"), "nowhere"))
  assert cli.main(["generate", f"--model_dir={run}", "--prompt=a", "--max_tokens=1"]) == 0


@pytest.mark.parametrize("changes, words", [
    ({"Distillation__teacher": "nowhere"}, "Distillation.teacher = 'nowhere' has no config.gin: name the directory"),
    ({"Distillation__step": 3}, "no checkpoint of step 3 in"),
    ({"TransformerConfig__vocab_size": 384}, "gives logits of 260 ids: make TransformerConfig.vocab_size = 384 as"),
    ({"Distillation__on_policy": 0.5, "Distillation__eos_id": 2},
     "Distillation.eos_id = 2 does not end the documents of local_text_bytes: make it 1"),
    ({"Distillation__on_policy": 0.5, "Distillation__prompt_length": 16},
     "Distillation.prompt_length = 16 leaves nothing of rows of 16 tokens to draw: make it at most 15"),
    ({"MIXTURE_OR_TASK_NAME": "local_text_words", "LocalText__words": "words.txt"},
     "local_text_words has the vocabulary WordVocabulary.* was trained with ByteVocabulary .*: name a task with that"
     " one, or give Distillation.teacher another directory"),
])
def test_a_run_that_cannot_be_taught(made, tmp_path, capsys, monkeypatch, changes, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "words.txt").write_text("<eos>\n<unk>\nmemory\n")
  assert cli.main(student(made, tmp_path / "run", **changes)) in (1, 2)
  assert re.search(words, last_line(capsys))


def test_a_plan_counts_the_teacher(made, capsys):
  """In bfloat16, as on a TPU; its norms and biases stay in float32."""
  flags = [flag for flag in student(made, made / "none", Partitioner__data=-1, Partitioner__num_devices=None)[1:]
           if not flag.startswith("--model_dir")]
  planned = lambda *more: json.loads((cli.main(
      ["plan", *flags, *more, "--topology=v5p:2x2x1", "--json"]), capsys.readouterr().out)[1].splitlines()[-1])
  capsys.readouterr()
  found, plain = planned(), planned("--gin.OBJECTIVE=@NextToken()")
  record = json.loads((made / "teacher" / "checkpoints" / "4" / "checkpoint.json").read_text())["record"]
  sizes = {name: math.prod(shape) for name, (_, shape) in record["leaves"].items()
           if name.startswith("params/")}
  small = sum(size for name, size in sizes.items() if "bias" in name or "scale" in name)
  assert found["memory"]["frozen"] == 2 * (sum(sizes.values()) - small) + 4 * small and "frozen" not in plain["memory"]
  assert found["flops"] > plain["flops"] and found["memory"]["memory"] > plain["memory"]["memory"]
