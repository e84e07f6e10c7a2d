"""Several objectives in one run, by the commands: metrics of each, exact resume, and what the model then does."""

import json

import pytest

from gpt4x import cli
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.configuration import SHIPPED
from tests.integration import corpus

PARTS = ("text", "infill", "spans")
SMALL = {"TransformerConfig.num_layers": 1, "TransformerConfig.embed_dim": 16, "TransformerConfig.num_heads": 2,
         "TransformerConfig.mlp_dim": 16, "TransformerConfig.memory_length": 8, "Partitioner.data": 1,
         "TransformerConfig.eval_memory_length": 8, "Partitioner.num_devices": 1, "TRAIN_STEPS": 4,
         "CHECKPOINT_PERIOD": 2, "EVAL_PERIOD": 4, "EVAL_STEPS": 2, "train.log_period": 1, "infill.characters": 16,
         "OPTIMIZER": corpus.Reference("@adamw()"), "adamw.learning_rate": 0.01,
         **{f"{name}/DatasetConfig.batch_size": 2 for name in PARTS},
         **{f"{name}/DatasetConfig.task_feature_lengths": {"targets": 32} for name in PARTS[:2]},
         "spans/DatasetConfig.task_feature_lengths": {"inputs": 18, "targets": 14}}


def gpt4x(command, folder, **bindings):
  values = SMALL | {"LocalText.files": f"{folder}/*.txt"} | {
      key.replace("__", "."): value for key, value in bindings.items()}
  return cli.main([*command, *(f"--gin.{key}={value!r}" for key, value in values.items())])


def train(folder, name, **bindings):
  """Trains the shipped experiment with a tiny model; returns its lines of metrics."""
  command = ["train", f"--gin_file={SHIPPED / 'experiments/denoising_tiny.gin'}", f"--model_dir={folder / name}"]
  assert gpt4x(command, folder, **bindings) == 0
  return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("objectives")
  for i in range(3):
    (folder / f"{i}.txt").write_text(" ".join(f"sentence {i} {j} of a text." for j in range(60)))
  return folder


@pytest.fixture(name="lines", scope="module")
def _lines(folder):
  return train(folder, "whole")


def test_each_part_has_its_metrics(lines):
  first = next(line for line in lines if line["split"] == "train")
  evaluated = [line for line in lines if line["split"] == "validation"][-1]
  for name in PARTS:
    assert {f"loss_{name}", f"accuracy_{name}"} <= first.keys()
    assert evaluated[f"bits_per_byte_{name}"] > 0
  assert "bits_per_byte" not in evaluated


def test_a_run_goes_on_exactly(folder, lines):
  """Two steps, and two more, are four; so the memory, and which documents it holds, are kept."""
  train(folder, "halves", TRAIN_STEPS=2)
  again = train(folder, "halves")
  losses = lambda some: {line["step"]: [line[f"loss_{name}"] for name in PARTS] for line in some
                         if line["split"] == "train"}
  assert losses(again) == losses(lines)


def test_it_fills_in_and_says_what_marks_stand_for(folder, lines, capsys):
  flags = ["generate", f"--model_dir={folder / 'whole'}", "--max_tokens=5", "--json"]
  assert cli.main([*flags, "--prompt=sentence ", "--suffix= of a text."]) == 0
  filled = json.loads(capsys.readouterr().out)
  assert filled["prompt"] == "sentence " and len(filled["tokens"]) <= 5 and max(filled["tokens"]) <= 259
  assert cli.main([*flags, "--prompt=[R]sentence <extra_id_0>", "--marks"]) == 0
  assert json.loads(capsys.readouterr().out)["prompt"] == "[R]sentence <extra_id_0>"
  assert cli.main([*flags, "--prompt=[R]sentence ", "--suffix= of a text.", "--marks"]) == 0
  assert max(json.loads(capsys.readouterr().out)["tokens"]) < 259, "text alone, by UL2's part"
  assert cli.main([*flags, "--prompt=sentence "]) == 0
  assert max(json.loads(capsys.readouterr().out)["tokens"]) < 259, "and the same model goes on with text"
  assert cli.main([*flags[:-1], "--prompt=a", "--suffix=z"]) == 0
  printed = capsys.readouterr().out
  assert printed.startswith("a") and printed.endswith("z\n")


def test_eval_reads_the_mixture_again(folder, lines, capsys):
  assert cli.main(["eval", f"--model_dir={folder / 'whole'}"]) == 0
  names = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
  assert {f"bits_per_byte_{name}" for name in PARTS} <= names


def test_eval_of_documents_alone(folder, lines, capsys):
  """What the model needs a byte of text as it is, beside models that have nothing else."""
  assert cli.main(["eval", f"--model_dir={folder / 'whole'}", "--gin.DATASET=@DatasetConfig()",
                   "--gin.DatasetConfig.mixture_or_task_name='local_text_marked'", "--gin.DatasetConfig.batch_size=2",
                   "--gin.DatasetConfig.task_feature_lengths={'targets': 32}"]) == 0
  found = dict(line.split() for line in capsys.readouterr().out.splitlines())
  assert float(found["bits_per_byte"]) > 0 and "bits_per_byte_text" not in found


def test_facts_beside_text(folder, lines):
  """Text goes on in its rows, and the model of it learns descriptions in others."""
  (folder / "graph.tsv").write_text("".join(f"thing {i}\tis near\tthing {i + 1}\n" for i in range(30)))
  (folder / "names.tsv").write_text("".join(f"thing {i}\tthing {i}\twhat has number {i}\n" for i in range(31)))
  found = train(folder, "facts", OBJECTIVE=corpus.Reference("@JointEmbedding()"),
                LocalGraph__files=str(folder / "graph.tsv"), LocalGraph__names=str(folder / "names.tsv"), **{
                    "spans/DatasetConfig.mixture_or_task_name": "local_descriptions_marked",
                    "spans/DatasetConfig.feature_converter": "lm",
                    "spans/DatasetConfig.task_feature_lengths": {"targets": 32}})
  steps = [line for line in found if line["split"] == "train"]
  assert all(line["embedding_loss"] > 0 for line in steps) and steps[-1]["loss_text"] < steps[0]["loss_text"]


def test_adapters_hold_facts_beside_a_model_that_stays(folder, lines):
  """Low-rank kernels learn triples: they alone are saved, and their base is what it was."""
  (folder / "triples.tsv").write_text("".join(f"thing {i}\tis near\tthing {i + 1}\n" for i in range(60)))
  before = Checkpoints(str(folder / "whole")).params_checksum()
  found = train(folder, "adapters", TRAIN_STEPS=8, LocalGraph__files=str(folder / "triples.tsv"), **{
      "LanguageModel.form": corpus.Reference("@LowRank()"), "LowRank.base": str(folder / "whole"), "LowRank.rank": 2,
      "spans/DatasetConfig.mixture_or_task_name": "local_triples_marked",
      "spans/DatasetConfig.feature_converter": "stream", "spans/DatasetConfig.task_feature_lengths": {"targets": 32}})
  losses = [line["loss_spans"] for line in found if line["split"] == "train"]
  assert losses[-1] < losses[0] and Checkpoints(str(folder / "whole")).params_checksum() == before
  shapes = Checkpoints(str(folder / "adapters")).param_shapes()
  assert shapes and all(2 in shape for shape in shapes.values())


@pytest.mark.parametrize("bindings, message", [
    ({"OBJECTIVE": corpus.Reference("@JointEmbedding()")}, "has one text a record: name a task such as"),
    ({"spans/DatasetConfig.task_feature_lengths": {"inputs": 8, "targets": 8}}, "positions: give all of them one"),
    ({"RowMixture.weights": {"other": 1.0}}, "RowMixture.weights has 'other'"),
    ({"hide_spans.denoisers": "t6"}, "hide_spans.denoisers = 't6' is unknown"),
    ({"infill.rate": 2.0}, "infill.rate = 2.0"),
    ({"TransformerConfig.vocab_size": 366}, "vocab_size = 366 is smaller than the 367 ids"),  # The last mark's.
])
def test_what_does_not_fit_is_told(folder, capsys, bindings, message):
  command = ["train", f"--gin_file={SHIPPED / 'experiments/denoising_tiny.gin'}", f"--model_dir={folder / 'no'}"]
  assert gpt4x(command, folder, **bindings) in (1, 2)
  lines = capsys.readouterr().err.strip().splitlines()
  assert message in lines[-1]
