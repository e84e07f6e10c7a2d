"""A run in a bucket is the run in a directory, bit for bit, however often it dies; and every command reads it."""

import pytest

from gpt4x import cli, storage
from gpt4x.checkpoints.manager import Checkpoints
from tests.integration import corpus
from tests.integration.faults import FAULTY, finish, outcome, start
from tests.storage import emulators

STEPS = 12
BINDINGS = {"TRAIN_STEPS": STEPS, "CHECKPOINT_PERIOD": 4, "EVAL_PERIOD": 8, "EVAL_STEPS": 1,
            "Partitioner__num_devices": 1}


@pytest.fixture(scope="module", name="text")
def _text(tmp_path_factory):
  return corpus.write(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module", name="local")
def _local(text, tmp_path_factory):
  """The run on this machine, with nothing in its way."""
  folder = tmp_path_factory.mktemp("local") / "run"
  assert cli.main(corpus.flags(text, folder, **BINDINGS)) == 0
  return folder


@pytest.fixture(scope="module", name="run")
def _run(store, text, local):
  """The run in a bucket, killed within its second save and continued."""
  run = storage.path(f"{store}://bucket/runs/killed")
  flags = corpus.flags(text, run, **BINDINGS)
  assert finish(start(FAULTY, "SIGKILL-while-saving", 8, *flags))[0] == -9
  assert Checkpoints(str(run)).steps() == [4] and (run / "checkpoints" / "8" / "params").exists()
  assert cli.main(flags) == 0
  return run


def test_it_ends_as_on_this_machine(run, local, tmp_path):
  expected = outcome(local, STEPS)
  assert expected["metrics"] and expected["events"] and expected["arrays"]
  assert outcome(emulators.copy_of(run, tmp_path), STEPS) == expected
  names = lambda folder: {path.name.partition(".tfevents")[0] for path in folder.iterdir()}
  assert names(run) == names(local)
  assert storage.read(run / "loss.png") == (local / "loss.png").read_bytes()
  assert storage.read(run / "config.gin").replace(str(run).encode(), b"") == (
      local / "config.gin").read_bytes().replace(str(local).encode(), b"")


def test_every_command_reads_it(run, local, tmp_path, capsys):
  def said(*argv):
    assert cli.main([str(word) for word in argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out

  for command in (["eval"], ["generate", "--prompt=a", "--max_tokens=3"]):
    assert said(*command, f"--model_dir={run}") == said(*command, f"--model_dir={local}") != ""
  assert "bits per byte, gzip -9" in said("report", f"--model_dir={run}")
  exported, converted = run.parent / "exported", run.parent / "converted"
  said("export", f"--model_dir={run}", f"--output={exported}")
  said("export", f"--model_dir={local}", f"--output={tmp_path / 'exported'}")
  for name in ("model.safetensors", "config.json", "vocabulary.json"):
    assert storage.read(exported / name) == (tmp_path / "exported" / name).read_bytes()
  said("convert", "--from=safetensors", f"--input={exported}", f"--model_dir={converted}")
  expected = said("eval", f"--model_dir={run}").replace(f"step {STEPS}\n", "step 0\n")
  assert said("eval", f"--model_dir={converted}") == expected
  assert cli.main(["export", f"--model_dir={run}", f"--output={exported}"]) == 1
  assert "is there already" in capsys.readouterr().err


def test_it_falls_back_goes_back_and_keeps_what_it_leaves(run, local, tmp_path, capsys):
  newest = run / "checkpoints" / str(STEPS)
  victim = next(path for path in storage.files_below(newest / "state") if path.parent.name == "d")
  whole = {path.relative_to(newest): path.read_bytes() for path in storage.files_below(newest)}
  whole[victim.relative_to(newest)] = damaged = storage.read(victim)[:-7]
  storage.write(victim, damaged)
  assert cli.main(["train", f"--model_dir={run}"]) == 0
  assert f"{STEPS} is damaged" in capsys.readouterr().err
  aside = run / "checkpoints" / f"{STEPS}.damaged"
  assert {path.relative_to(aside): path.read_bytes() for path in storage.files_below(aside)} == whole
  assert outcome(emulators.copy_of(run, tmp_path), STEPS) == outcome(local, STEPS)

  assert cli.main(["train", f"--model_dir={run}", "--step=4", "--gin.CheckpointConfig.keep=1"]) == 0
  assert f"checkpoint {STEPS} is kept as {STEPS}.aside" in capsys.readouterr().err
  assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
      str(STEPS), f"{STEPS}.aside", f"{STEPS}.damaged", "8.aside"]
  assert cli.main(["train", f"--model_dir={run}", "--step=2"]) == 1
  assert f"no checkpoint of step 2 in {run}/checkpoints" in capsys.readouterr().err


def test_a_new_run_starts_from_it_and_is_traced(run, text, capsys):
  flags = corpus.flags(text, run.parent / "tuned", **BINDINGS | {"TRAIN_STEPS": 3}, train__init_from=str(run))
  assert cli.main([*flags, "--profile_steps=1:2"]) == 0, capsys.readouterr().err
  assert [path for path in storage.files_below(run.parent / "tuned" / "profile") if path.name.endswith(".xplane.pb")]


def test_it_teaches_and_is_known_again_where_it_is_copied_to(run, text, tmp_path):
  flags = corpus.flags(text, tmp_path / "student", **BINDINGS | {"TRAIN_STEPS": 1, "EVAL_PERIOD": None},
                       OBJECTIVE=corpus.Reference("@Distillation()"), Distillation__teacher=str(run))
  assert cli.main(flags) == 0
  student = Checkpoints(str(tmp_path / "student"))
  directory, *content = student.frozen(1)["teacher"]
  assert directory == str(run)
  copy = emulators.copy_of(run, tmp_path)
  assert cli.main(["train", f"--model_dir={tmp_path / 'student'}", "--gin.TRAIN_STEPS=2",
                   f"--gin.Distillation.teacher='{copy}'"]) == 0
  assert student.frozen(2) == {"teacher": (str(copy), *content)}


def test_nobody_is_there(store, capsys):
  for command in (["generate", "--prompt=a"], ["train"], ["report"]):
    assert cli.main([*command, f"--model_dir={store}://bucket/nobody"]) == 2
    assert f"no run in {store}://bucket/nobody" in capsys.readouterr().err
