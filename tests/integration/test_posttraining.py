"""From a base to an assistant, by the commands: answers, preferences, rewards, and a chat."""

import io
import json

import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.configuration import SHIPPED
from gpt4x.data.chat_template import Template
from tests.integration import corpus

SMALL = {"TransformerConfig.vocab_size": 260, "TransformerConfig.num_layers": 1, "TransformerConfig.embed_dim": 16,
         "TransformerConfig.num_heads": 2, "TransformerConfig.mlp_dim": 16, "TransformerConfig.memory_length": 8,
         "Partitioner.data": 1, "Partitioner.num_devices": 1, "BATCH_SIZE": 8, "TRAIN_STEPS": 4,
         "CHECKPOINT_PERIOD": 2, "EVAL_PERIOD": 4, "train.log_period": 1, "OPTIMIZER": corpus.Reference("@adamw()"),
         "adamw.learning_rate": 0.01}


def trained(folder, name, experiment, start, **bindings):
  """Trains a shipped experiment with a tiny model; returns the metrics by split."""
  values = SMALL | {"LocalChat.files": f"{folder}/{name}.jsonl", "train.init_from": start and str(folder / start)} | {
      key.replace("__", "."): value for key, value in bindings.items()}
  status = cli.main(["train", f"--gin_file={experiment}", f"--model_dir={folder / name}",
                     *(f"--gin.{key}={value!r}" for key, value in values.items())])
  assert status == 0
  lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
  return {split: [line for line in lines if line["split"] == split] for split in ("train", "validation")}


def write(path, lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A base that answers questions, and data of each kind."""
  folder = tmp_path_factory.mktemp("posttraining")
  ask = lambda i: [{"role": "user", "content": f"What is {i}?"}]
  answer = {"role": "assistant", "content": "A number"}
  write(folder / "chat.jsonl", [{"messages": [*ask(i), answer]} for i in range(40)])
  write(folder / "pairs.jsonl", [{"prompt": ask(i), "chosen": "Yes", "rejected": "No"} for i in range(40)])
  write(folder / "rewards.jsonl", [{"prompt": ask(i), "completion": "abc"} for i in range(40)])
  trained(folder, "chat", SHIPPED / "experiments/chat_tiny.gin", None, TASK_FEATURE_LENGTHS={"targets": 64})
  return folder


def test_answers_are_learned_and_the_template_is_kept(folder):
  lines = [json.loads(line) for line in (folder / "chat" / "metrics.jsonl").read_text().splitlines()]
  losses = [line["loss"] for line in lines if line["split"] == "validation"]
  assert losses[-1] < losses[0]
  assert (folder / "chat" / "chat_template.jinja").read_text() == Template().text


def test_a_run_on_plain_text_keeps_the_template_of_the_model_that_it_starts_from(folder):
  """Whatever is in it: nothing is written by it there."""
  (folder / "other").mkdir()
  for name in ("text.txt", "more.txt"):
    (folder / "other" / name).write_text("What is one? A number. " * 60)
  (folder / "chat" / "chat_template.jinja").write_text("{% for")
  try:
    trained(folder, "other_run", SHIPPED / "experiments/local_text_tiny.gin", "chat",
            LocalText__files=f"{folder}/other/*.txt", TASK_FEATURE_LENGTHS={"targets": 16}, EVAL_PERIOD=None)
  finally:
    (folder / "chat" / "chat_template.jinja").write_text(Template().text)
  assert (folder / "other_run" / "chat_template.jinja").read_text() == "{% for"


def test_preferences_are_learned(folder):
  found = trained(folder, "pairs", SHIPPED / "experiments/preference_tiny.gin", "chat",
                  Preference__reference=str(folder / "chat"), TASK_FEATURE_LENGTHS={"targets": 128},
                  train__microbatches=2)
  before, after = found["validation"]
  assert before["loss"] == pytest.approx(0.693147, abs=1e-5) and before["reward_margin"] == pytest.approx(0, abs=1e-6)
  assert after["loss"] < before["loss"] and after["reward_accuracy"] == 1.0
  assert "perplexity" not in after
  assert (folder / "pairs" / "chat_template.jinja").exists()


def test_adapters_learn_preferences_without_another_copy_of_their_base(folder, capsys):
  found = trained(folder, "adapters", SHIPPED / "experiments/preference_tiny.gin", None,
                  LocalChat__files=str(folder / "pairs.jsonl"), Preference__reference=None,
                  LanguageModel__form=corpus.Reference("@LowRank()"), LowRank__base=str(folder / "chat"),
                  LowRank__rank=2, TASK_FEATURE_LENGTHS={"targets": 128})
  assert found["validation"][0]["loss"] == pytest.approx(0.693147, abs=1e-5)
  assert found["validation"][1]["loss"] < 0.69
  capsys.readouterr()
  assert cli.main(["eval", f"--model_dir={folder / 'adapters'}"]) == 0
  printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
  assert float(printed["loss"]) == pytest.approx(found["validation"][1]["loss"], rel=1e-4)


REWARDS = dict(Rollouts__max_tokens=6, DatasetConfig__repeat=4, TASK_FEATURE_LENGTHS={"targets": 64}, EVAL_STEPS=1)


def test_rewards_are_learned_and_a_run_goes_on_exactly(folder, capsys):
  found = trained(folder, "rewards", SHIPPED / "experiments/group_relative_tiny.gin", "chat", **REWARDS)
  assert all(line["answer_tokens"] <= 6 and line["clipped"] == 0 for line in found["train"])
  assert {"reward", "ended", "loss"} <= found["validation"][0].keys()
  capsys.readouterr()
  short = trained(folder, "rewards", SHIPPED / "experiments/group_relative_tiny.gin", "chat", **REWARDS)
  assert short == found, "the same command of a finished run"
  (folder / "again.jsonl").write_text((folder / "rewards.jsonl").read_text())
  trained(folder, "again", SHIPPED / "experiments/group_relative_tiny.gin", "chat", **REWARDS | {
      "TRAIN_STEPS": 2, "LocalChat__files": str(folder / "rewards.jsonl")})
  again = trained(folder, "again", SHIPPED / "experiments/group_relative_tiny.gin", "chat", **REWARDS | {
      "LocalChat__files": str(folder / "rewards.jsonl")})
  same = ("loss", "reward", "answer_tokens", "gradient_norm")
  for one, other in zip(found["train"], again["train"], strict=True):
    assert [one[name] for name in same] == [other[name] for name in same]
  assert reading.saved_run(str(folder / "again")).experiment.objective.rollouts.max_tokens == 6


def test_a_chat_in_the_terminal(folder, capsys, monkeypatch):
  talk = ["chat", f"--model_dir={folder / 'chat'}", "--max_tokens=8", "--system=Be brief"]
  monkeypatch.setattr("sys.stdin", io.StringIO("What is 1?\n\nWhat is 2?\n/reset\nWhat is 1?\n/exit\nnever\n"))
  assert cli.main(talk) == 0
  out, err = capsys.readouterr()
  turns = [line for line in err.splitlines() if line.startswith("[turn")]
  assert [line.split(":")[0] for line in turns] == ["[turn 1", "[turn 2", "[turn 1"]
  assert all("ms each" in line for line in turns) and out.count("\n") >= 3


@pytest.mark.parametrize("name, experiment, bindings, message", [
    ("pairs", "chat_tiny", {"MIXTURE_OR_TASK_NAME": "local_preferences_bytes", "DatasetConfig__pack": False},
     "NextToken would train on all alike"),
    ("chat", "preference_tiny", {"MIXTURE_OR_TASK_NAME": "local_chat_bytes"}, "local_chat_bytes has one text a record"),
    ("chat", "group_relative_tiny", {"DatasetConfig__repeat": 1}, "DatasetConfig.repeat = 1 leaves an answer none"),
])
def test_what_does_not_fit_is_said_before_training(folder, capsys, name, experiment, bindings, message):
  values = SMALL | {"LocalChat.files": f"{folder}/{name}.jsonl", "train.init_from": str(folder / "chat"),
                    "Preference.reference": str(folder / "chat")} | {
      key.replace("__", "."): value for key, value in bindings.items()}
  if experiment != "preference_tiny":
    del values["Preference.reference"]
  capsys.readouterr()
  status = cli.main(["train", f"--gin_file={SHIPPED / 'experiments'}/{experiment}.gin", f"--model_dir={folder / 'not'}",
                     *(f"--gin.{key}={value!r}" for key, value in values.items())])
  assert status in (1, 2)
  assert message in capsys.readouterr().err.splitlines()[-1]
