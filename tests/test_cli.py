"""The command line: what reaches the library behind it, and what a user's mistake or the machine's state comes to."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import types

import gin
import pytest

from gpt4x import cli, configuration
from gpt4x.commands import running
from gpt4x.errors import CommandError, UserError
from gpt4x.inference.sampling import Sampling
from gpt4x.launch.clusters import Processes
from gpt4x.planning.chips import parse_topology


@gin.configurable
def fail_inside_gin(error):
  raise error


@gin.configurable("train_stand_in")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What the commands know of the real one."""

  experiment: object = None
  partitioner: object = "mesh"


class Experiment:
  """What the commands know of the real one; all are equal."""

  model = types.SimpleNamespace(config=types.SimpleNamespace(num_params=lambda: 1234))
  data = types.SimpleNamespace(documents=lambda split: [types.SimpleNamespace(tolist=lambda: split)] * 2,
                               vocabulary=types.SimpleNamespace(decode=lambda text: text * 50))

  def __eq__(self, other):
    return isinstance(other, Experiment)

  def of_run(self, model_dir):
    return self

  def restore_params(self, model_dir, partitioner, step):
    return step, (model_dir, partitioner.num_devices)


EXPERIMENT, CONFIG, SAVED = Experiment(), TrainConfig(), TrainConfig(Experiment())
METRICS = [{"split": "train", "tokens_per_second": 10.0, "mfu": 0.5, "step": 1},
           {"split": "validation", "bits_per_byte": 8.0, "step": 0, "tokens": 9},
           {"split": "validation", "bits_per_byte": 2.5, "step": 7, "tokens": 1234}]


@dataclasses.dataclass
class Plan:
  step: str


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
  """Stands in for what is behind the commands, which imports much; returns what of it is called with what."""
  recorded = []

  def recorder(name, result=None):
    def record(*args, **kwargs):
      recorded.append((name, *args, kwargs))
      return result
    return record

  def load_run(model_dir, *args, needed=None, **kwargs):
    kwargs |= {"needed": "the model"} if needed else {}
    recorded.append(("load_run", model_dir, *args, kwargs))
    if model_dir != "converted":
      gin.bind_parameter("train_stand_in.experiment", EXPERIMENT)

  foreign = types.SimpleNamespace(text=None, data="DATA", bindings=["A=1"], model=Experiment.model, vocabulary=None)
  stand_ins = {
      "tasks": {},
      "experiment": {"Experiment": Experiment},
      "training.config": {"TrainConfig": TrainConfig},
      "training.loop": {"train": recorder("loop", 75)},
      "training.metrics": {"read_metrics": lambda model_dir: METRICS if model_dir != "new" else METRICS[:1]},
      "evaluation.likelihood": {"evaluate": recorder("evaluate", {"loss": 0.123456789, "tokens": 12345678})},
      "inference.generate": {"generate": recorder("generate", iter(["b", "c"]))},
      "data.vocabularies": {"train_from_task": recorder("train_from_task", "o"),
                            "load": recorder("vocabulary", "words"), "save": recorder("save_vocabulary")},
      "interop.t5x": {},
      "interop.t5x.loop": {"train": recorder("t5x", 75)},
      "interop.t5x.crossing": {"bring_over": recorder("bring_over")},
      "interop.model_directories": {"read": recorder("read", foreign), "write": recorder("write"), "foreign": foreign},
      "interop.exports": {"save": recorder("export")},
      "planning.compiler": {"topology_devices": recorder("devices", ["chip"] * 8),
                            "Step": types.SimpleNamespace(of=recorder("step", "step"))},
      "planning.plan": {"make": recorder("make", Plan("made")), "describe": recorder("describe", "a plan"),
                        "search": recorder("search", [Plan("one"), Plan("two")]),
                        "ranking": recorder("ranking", "a ranking")},
  }
  for name in [name for name in sys.modules if name.startswith("gpt4x.commands.") and name != running.__name__]:
    monkeypatch.delitem(sys.modules, name)  # They hold what they have imported.
    monkeypatch.delattr(sys.modules["gpt4x.commands"], name.rpartition(".")[2], raising=False)
  for name, content in stand_ins.items():
    module = types.ModuleType(f"gpt4x.{name}")
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    parent, _, child = module.__name__.rpartition(".")
    monkeypatch.setattr(sys.modules.get(parent) or __import__(parent, fromlist=[""]), child, module, raising=False)
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # Or else TensorFlow would be imported to be silenced.
  monkeypatch.setattr(configuration, "load", recorder("load"))
  monkeypatch.setattr(configuration, "load_run", load_run)
  monkeypatch.setattr(configuration, "config_text", lambda: "TEXT")
  monkeypatch.setattr(configuration, "build", lambda configurable: configurable())
  monkeypatch.setattr(configuration, "read", lambda path: "TEXT")
  yield recorded
  commands = sys.modules["gpt4x.commands"]
  for name in [name for name in sys.modules if name.startswith("gpt4x.commands.") and name != running.__name__]:
    del sys.modules[name]  # They hold the stand-ins.
    vars(commands).pop(name.rpartition(".")[2], None)


def failure(capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str]:
  status = cli.main(argv)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("gpt4x: error: ")
  return status, last.removeprefix("gpt4x: error: ")


def test_train(calls):
  status = cli.main(["--gin.A=1", "train", "--gin_file=a.gin", "--gin.f.b='x=y'", "--model_dir", "runs/a",
                     "--gin_file", "b.gin", "--profile_steps=10:12"])
  assert status == 75, "the loop's own status: stopped by preemption after saving"
  assert calls == [("load", ("runs/train.gin", "a.gin", "b.gin"), ["A=1", "f.b='x=y'"], {}),
                   ("bring_over", "runs/a", CONFIG, {}), ("loop", "runs/a", CONFIG, (10, 12), {})]


def test_train_without_a_file_continues_the_run(calls):
  assert cli.main(["train", "--model_dir=runs/a", "--gin.TRAIN_STEPS=9"]) == 75
  assert calls == [("load_run", "runs/a", {"bindings": ["TRAIN_STEPS=9"]}),
                   ("bring_over", "runs/a", SAVED, {}), ("loop", "runs/a", SAVED, None, {})]


def test_a_converted_model_is_no_run_to_continue(calls, capsys):
  status, line = failure(capsys, "train", "--model_dir=converted")
  assert status == 1 and "not how to train it" in line and "--gin_file=converted/config.gin" in line
  assert [name for name, *_ in calls] == ["load_run"]


def test_train_on_t5x(calls, monkeypatch):
  monkeypatch.setitem(sys.modules, "t5x", types.ModuleType("t5x"))
  monkeypatch.setitem(sys.modules, "t5x.train", types.ModuleType("t5x.train"))
  assert cli.main(["train", "--loop=t5x", "--gin_file=a.gin", "--model_dir=runs/a"]) == 75
  assert [name for name, *_ in calls] == ["load", "t5x"]


def test_t5x_is_optional(calls, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "t5x", None)  # As if it were not there.
  status, line = failure(capsys, "train", "--loop=t5x", "--gin_file=a.gin", "--model_dir=runs/a")
  assert status == 1 and "make t5x" in line and "--no-deps" in line
  assert not calls


def test_eval(calls, capsys):
  assert cli.main(["eval", "--model_dir=runs/a", "--step=3", "--gin_file=a.gin", "--gin.A=1", "--split=test"]) == 0
  assert calls == [("load_run", "runs/a", ["a.gin"], ["A=1"], {}),
                   ("evaluate", "runs/a", EXPERIMENT, {"step": 3, "split": "test"})]
  assert capsys.readouterr().out == "loss 0.123457\ntokens 12345678\n"


def test_generate(calls, capsys):
  """Every flag has another value, so that no two can be taken for each other."""
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt=-- a\n", "--top_k=5", "--top_p=1", "--temperature=0.5",
                   "--seed=7", "--max_tokens=9", "--step=3"]) == 0
  assert calls == [("load_run", "runs/a", (), (), {"needed": "the model"}), (
      "generate", "runs/a", EXPERIMENT, "-- a\n", {
      "max_tokens": 9, "sampling": Sampling(temperature=0.5, top_k=5, top_p=1.0), "seed": 7, "step": 3})]
  assert capsys.readouterr().out == "-- a\nbc\n"


def test_generate_by_default(calls):
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt="]) == 0
  assert calls[1:] == [("generate", "runs/a", EXPERIMENT, "", {
      "max_tokens": 256, "sampling": Sampling(), "seed": 0, "step": None})]


def test_vocabulary(calls, capsys):
  assert cli.main(["vocabulary", "--task=t", "--size=300", "--output=o", "--gin_file=a.gin", "--gin.A=1"]) == 0
  assert calls == [("load", ("runs/train.gin", "a.gin"), ["A=1"], {"partial": True}),
                   ("train_from_task", "t", 300, "o", {})]
  assert capsys.readouterr().out == "wrote o\n"


def test_convert(calls, capsys, tmp_path):
  model_dir = tmp_path / "b"
  argv = ("convert", "--from=transfo_xl", "--input=a", f"--model_dir={model_dir}")
  foreign = sys.modules["gpt4x.interop.model_directories"].foreign
  read = ("read", "transfo_xl", pathlib.Path("a"), model_dir, {})
  write = ("write", model_dir, foreign, "TEXT", {})
  assert cli.main(argv) == 0
  assert calls == [read, ("load", ["runs/experiment.gin"], ["A=1"], {"text": "DATA"}), write]
  captured = capsys.readouterr()
  assert captured.out == f"wrote {model_dir}: 1,234 parameters\n" and "a has no vocabulary" in captured.err
  calls.clear()
  foreign.text, foreign.vocabulary = "SAVED", "words"
  assert cli.main(argv) == 0 and capsys.readouterr().err == ""
  assert calls == [read, ("load", [], ["A=1"], {"text": "SAVED"}), write]
  calls.clear()
  (model_dir / "checkpoints").mkdir(parents=True)
  status, line = failure(capsys, *argv)
  assert status == 1 and "has a run already (checkpoints)" in line and not calls


def test_export(calls, capsys, tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "c").mkdir()
  argv = ["export", f"--model_dir={tmp_path}/a", f"--output={tmp_path}/c", "--step=3"]
  assert cli.main(argv) == 0
  saved = [("load_run", f"{tmp_path}/a", (), (), {"needed": "the model"}),
           ("export", f"{tmp_path}/c", Experiment.model, (f"{tmp_path}/a", 1), {})]
  assert calls == saved
  assert (tmp_path / "c" / "config.gin").read_text() == "TEXT"
  assert capsys.readouterr().out == f"wrote {tmp_path}/c: step 3, 1,234 parameters\n"
  calls.clear()
  (tmp_path / "a" / "vocabulary.json").touch()
  assert cli.main(argv) == 0
  assert calls == saved + [("vocabulary", f"{tmp_path}/a", {}), ("save_vocabulary", "words", f"{tmp_path}/c", {})]


def test_plan(calls, capsys):
  argv = ["plan", "--topology=v5p:2x2x2", "--slices=2", "--gin_file=a.gin", "--gin.A=1"]
  topology = parse_topology("v5p:2x2x2", 2)
  assert cli.main(argv) == 0
  before = [("devices", topology, {}), ("load", ("runs/train.gin", "a.gin"), ["A=1"], {}), ("step", CONFIG, {})]
  assert calls == before + [("make", "step", "mesh", topology, {"compiled": True}), ("describe", Plan("made"), {})]
  assert capsys.readouterr().out == "a plan\n"
  calls.clear()
  assert cli.main([*argv, "--json"]) == 0 and json.loads(capsys.readouterr().out) == {"step": "made"}
  calls.clear()
  assert cli.main([*argv, "--search"]) == 0 and capsys.readouterr().out == "a ranking\n"
  assert calls == before + [("search", "step", topology, {}), ("ranking", [Plan("one"), Plan("two")], topology, {})]
  assert cli.main([*argv, "--search", "--json"]) == 0
  assert json.loads(capsys.readouterr().out) == [{"step": "one"}, {"step": "two"}]


def test_report(calls, capsys):
  assert cli.main(["report", "--model_dir=runs/a"]) == 0
  assert calls == [("load_run", "runs/a", (), (), {})]
  rows = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
  assert "runs/a: 1,234 validation tokens after 7 steps" in rows
  assert "bits per byte, step 0 8.000" in rows and "bits per byte, step 7 2.500" in rows
  assert "tokens/s, median 10" in rows and any(row.startswith("bits per byte, xz -9 ") for row in rows)
  status, line = failure(capsys, "report", "--model_dir=new")
  assert status == 1 and "no validation metrics" in line


PROCESS_FLAGS = ["--coordinator_address=a:1", "--num_processes=3", "--process_id=2", "--start_timeout=9",
                 "--heartbeat_timeout=8"]


@pytest.mark.parametrize("command, continuing", [("train", "runs/a"), ("eval", None)])
def test_one_of_several_processes(monkeypatch, calls, command, continuing):
  """Found by the flags, connected by a child of the supervisor, and the last word is the supervisor's."""
  processes = Processes(3, 2, "a:1")
  record = lambda name, result=None: lambda *args, **kwargs: calls.append((name, *args, kwargs)) or result
  monkeypatch.setattr(running.clusters, "find", record("find", processes))
  monkeypatch.setattr(running.agreement, "start", record("start"))
  monkeypatch.setattr(running.agreement, "stop", record("stop"))

  def supervise(processes, work, model_dir):
    calls.append(("supervise", processes, model_dir))
    assert work("note") == ((75, None) if command == "train" else (0, None))
    return 1, "error: the supervisor's"

  monkeypatch.setattr(running.supervision, "supervise", supervise)
  assert cli.main([command, "--model_dir=runs/a", *PROCESS_FLAGS]) == 1
  assert calls[:3] == [("find", "a:1", 3, 2, 9, {}), ("supervise", processes, continuing),
                       ("start", processes, "note", 9, 8, {"preemptible": command == "train"})]
  assert calls[-1] == ("stop", {})


@pytest.mark.parametrize("error, status, line", [(CommandError("no --process_id"), 2, "gpt4x: error: no --process_id"),
                                                 (KeyboardInterrupt(), 130, "gpt4x: interrupted")])
def test_processes_that_are_not_found(monkeypatch, calls, capsys, error, status, line):
  def find(*_):
    raise error
  monkeypatch.setattr(running.clusters, "find", find)
  assert cli.main(["eval", "--model_dir=runs/a"]) == status and not calls
  assert capsys.readouterr().err == f"{line}\n"
  assert cli.main(["report", "--model_dir=runs/a"]) == 0, "is always by itself"


@pytest.mark.parametrize("command, words", [
    ("", ["COMMAND"]),
    ("trian", ["unknown command trian", "did you mean train?"]),
    ("train --model_dri=a", ["unknown flag --model_dri", "did you mean --model_dir?"]),
    ("train --model_dir=a --gin_fil=b", ["unknown flag --gin_fil", "did you mean --gin_file?"]),
    ("train --model-dir=a", ["unknown flag --model-dir", "did you mean --model_dir?"]),
    ("train --model_dir=a stray", ["stray"]),
    ("train --gin_file=a", ["--model_dir"]),
    ("train --model_dir=a --gin.A", ["--gin.A", "--gin.NAME=VALUE"]),
    ("train --model_dir=a --gin.MODEL_DIR='b'", ["--model_dir=DIR"]),
    ("train --model_dir=a --loop=jax", ["--loop", "jax", "gpt4x", "t5x"]),
    ("train --model_dir=a --profile_steps=9:9", ["--profile_steps", "'9:9'", "START:STOP"]),
    ("generate --model_dir=a --prompt=b --gin.A=1", ["unknown flag --gin.A=1"]),
    ("generate --model_dir=a --prompt=b --max_tokens=0", ["--max_tokens", "'0'", "at least 1"]),
    ("generate --model_dir=a --prompt=b --temperature=nan", ["--temperature", "'nan'"]),
    ("generate --model_dir=a --prompt=b --top_p=1.5", ["--top_p", "'1.5'", "from 0 to 1"]),
    ("convert --from=torch --input=a --model_dir=b", ["--from", "'torch'", "transfo_xl", "safetensors"]),
    ("generate --model_dir=a --prompt=b --step=x", ["--step", "'x'", "whole number"]),
])
def test_a_wrong_command_is_one_line_and_status_2(calls, capsys, command, words):
  status = cli.main(command.split())
  captured = capsys.readouterr()
  assert status == 2 and captured.out == "" and not calls
  assert captured.err.count("\n") == 1 and all(word in captured.err for word in words), captured.err


def report(monkeypatch: pytest.MonkeyPatch, run) -> None:
  """Makes `run` the command's."""
  module = types.ModuleType("gpt4x.commands.report")
  module.run = run
  monkeypatch.setitem(sys.modules, module.__name__, module)


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
  def run(_):
    with gin.unlock_config():
      gin.bind_parameter("fail_inside_gin.error", error)
    fail_inside_gin()
  report(monkeypatch, run)


@pytest.mark.parametrize("error, status", [(UserError("no task 'x'"), 1), (CommandError("no name 'x'"), 2)])
def test_a_users_mistake_is_one_line_even_from_inside_gin(monkeypatch, capsys, error, status):
  raised(monkeypatch, error)
  assert cli.main(["report", "--model_dir=a"]) == status
  assert capsys.readouterr().err == f"gpt4x: error: {error}\n"


@pytest.mark.parametrize("error, words", [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a"), ["/runs/a", "No space left", "free some space"]),
    (OSError(errno.EROFS, os.strerror(errno.EROFS), "/runs/a"), ["/runs/a", "Read-only", "that can be written"]),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/runs/a"), ["/runs/a", "Permission denied"]),
    (ValueError("RESOURCE_EXHAUSTED: writing: No space left on device [OS error 28]"), ["No space left", "free"]),
])
@pytest.mark.parametrize("inside_gin", [False, True])
def test_a_directory_that_cannot_be_written_is_one_line(monkeypatch, capsys, error, words, inside_gin):
  raised(monkeypatch, error)
  if not inside_gin:
    def run(_):
      try:
        raise error
      except Exception as cause:
        raise RuntimeError("checkpoint not saved") from cause
    report(monkeypatch, run)
  assert cli.main(["report", "--model_dir=a"]) == 1
  message = capsys.readouterr().err
  assert message.count("\n") == 1 and all(word in message for word in words), message


def test_a_defect_keeps_its_traceback_and_ends_with_one_line(monkeypatch, capsys):
  raised(monkeypatch, KeyError("a defect"))
  assert cli.main(["report", "--model_dir=a"]) == 1
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("Traceback") and lines[-1] == "gpt4x: error: KeyError: 'a defect'"


def test_an_interrupt(monkeypatch, capsys):
  raised(monkeypatch, KeyboardInterrupt())
  assert cli.main(["report", "--model_dir=a"]) == 130
  assert "Traceback" not in capsys.readouterr().err


def test_modules_beside_the_user_come_last(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  cli.main(["report", "--model_dir=a"])
  assert sys.path[-1] == str(tmp_path)


def test_help_imports_nothing_heavy(tmp_path):
  program = ("import sys; from gpt4x import cli\n"
             "try: cli.main(['--help'])\n"
             "except SystemExit as request: assert request.code == 0\n"
             "assert not {'jax', 'flax', 'numpy', 'gin', 'absl', 'tensorflow', 'seqio'} & set(sys.modules)")
  result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  commands = ("train", "eval", "generate", "vocabulary", "convert", "export", "plan", "report")
  assert all(command in result.stdout for command in commands)


def test_every_sub_command_has_its_file(repository):
  _, commands = cli._parsers()
  files = {path.stem for path in (repository / "gpt4x" / "commands").glob("*.py")}
  assert set(commands) == files - {"__init__", "running", "reading"}


def test_libraries_start_silently(tmp_path):
  program = ("import sys, types; from gpt4x import cli\n"
             "module = sys.modules['gpt4x.commands.report'] = types.ModuleType('gpt4x.commands.report')\n"
             "module.run = lambda _: print('imported' if 'tensorflow' in sys.modules else 'not imported')\n"
             "sys.exit(cli.main(['report', '--model_dir=a']))")
  environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
  result = subprocess.run(
      [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment)
  assert (result.returncode, result.stdout, result.stderr) == (0, "imported\n", "")


def test_output_that_nobody_reads_any_more_is_no_error(tmp_path):
  program = ("import sys, types; from gpt4x import cli\n"
             "module = sys.modules['gpt4x.commands.report'] = types.ModuleType('gpt4x.commands.report')\n"
             "module.run = lambda _: print('x' * 1_000_000)\n"
             "sys.exit(cli.main(['report', '--model_dir=a']))")
  process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  process.stdout.close()
  assert process.stderr.read() == b"" and process.wait() == 141
  process.stderr.close()
