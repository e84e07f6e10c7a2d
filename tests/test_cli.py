"""The command line: what reaches the modules behind it, and what a user's mistake or the machine's state comes to."""

import errno
import os
import subprocess
import sys
import types

import gin
import pytest

from gpt4x import cli, configuration
from gpt4x.errors import CommandError, UserError


@gin.configurable
def fail_inside_gin(error):
  raise error


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
  """Stands in for the modules behind the commands, which import much; returns what they are called with."""
  recorded, stand_ins = [], {}
  recorder = lambda name, result=None: lambda *args, **kwargs: recorded.append((name, *args, kwargs)) or result
  for module, function in [("training.loop", "main"), ("training.evaluation", "main"), ("inference.generate", "main"),
                           ("report", "main"), ("data.vocabularies", "train_from_task"),
                           ("interop.t5x.loop", "main"), ("interop.t5x.crossing", "bring_over"),
                           ("interop.model_directories", "convert"), ("interop.model_directories", "export")]:
    stand_in = stand_ins.setdefault(module, types.ModuleType(f"gpt4x.{module}"))
    setattr(stand_in, function, recorder(module, 75 if module.endswith("loop") else "not a status"))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    parent, _, child = stand_in.__name__.rpartition(".")
    monkeypatch.setattr(sys.modules.get(parent) or __import__(parent, fromlist=[""]), child, stand_in, raising=False)
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # Or else TensorFlow would be imported to be silenced.
  monkeypatch.setattr(configuration, "load", recorder("load"))
  monkeypatch.setattr(configuration, "load_run", recorder("load_run"))
  return recorded


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
                   ("interop.t5x.crossing", "runs/a", {}), ("training.loop", "runs/a", (10, 12), {})]


def test_train_without_a_file_continues_the_run(calls):
  cli.main(["train", "--model_dir=runs/a", "--gin.TRAIN_STEPS=9"])
  assert calls == [("load_run", "runs/a", {"bindings": ["TRAIN_STEPS=9"]}), ("interop.t5x.crossing", "runs/a", {}),
                   ("training.loop", "runs/a", None, {})]


def test_train_on_t5x(calls, monkeypatch):
  monkeypatch.setitem(sys.modules, "t5x", types.ModuleType("t5x"))
  monkeypatch.setitem(sys.modules, "t5x.train", types.ModuleType("t5x.train"))
  assert cli.main(["train", "--loop=t5x", "--gin_file=a.gin", "--model_dir=runs/a"]) == 75
  assert [name for name, *_ in calls] == ["load", "interop.t5x.loop"]


def test_t5x_is_optional(calls, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "t5x", None)  # As if it were not there.
  status, line = failure(capsys, "train", "--loop=t5x", "--gin_file=a.gin", "--model_dir=runs/a")
  assert status == 1 and "make t5x" in line and "--no-deps" in line
  assert not calls


def test_eval(calls):
  assert cli.main(["eval", "--model_dir=runs/a", "--step=3", "--gin_file=a.gin", "--gin.A=1"]) == 0
  assert calls == [("training.evaluation", "runs/a", 3, "validation", ["a.gin"], ["A=1"], {})]


def test_generate(calls):
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt=-- a\n", "--top_k=5", "--temperature=0"]) == 0
  assert calls == [("inference.generate", "runs/a", "-- a\n", 256, 0.0, 5, None, 0, None, {})]


def test_vocabulary(calls):
  assert cli.main(["vocabulary", "--task=t", "--size=300", "--output=o", "--gin.A=1"]) == 0
  assert calls == [("load", ("runs/train.gin",), ["A=1"], {"partial": True}), ("data.vocabularies", "t", 300, "o", {})]


def test_convert_and_export(calls):
  assert cli.main(["convert", "--from=transfo_xl", "--input=a", "--model_dir=b"]) == 0
  assert cli.main(["export", "--model_dir=b", "--output=c", "--step=3"]) == 0
  assert calls == [("interop.model_directories", "transfo_xl", "a", "b", {}),
                   ("interop.model_directories", "b", "c", 3, {})]


def test_report(calls):
  assert cli.main(["report", "--model_dir=runs/a"]) == 0
  assert calls == [("report", "runs/a", {})]


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


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
  def main(model_dir):
    with gin.unlock_config():
      gin.bind_parameter("fail_inside_gin.error", error)
    fail_inside_gin()
  monkeypatch.setattr(sys.modules["gpt4x.report"], "main", main)


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
    def main(model_dir):
      try:
        raise error
      except Exception as cause:
        raise RuntimeError("checkpoint not saved") from cause
    monkeypatch.setattr(sys.modules["gpt4x.report"], "main", main)
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
             "assert not {'jax', 'numpy', 'gin', 'absl', 'tensorflow', 'seqio'} & set(sys.modules)")
  result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  commands = ("train", "eval", "generate", "vocabulary", "convert", "export", "report")
  assert all(command in result.stdout for command in commands)


def test_libraries_start_silently(tmp_path):
  program = ("import sys, types; from gpt4x import cli\n"
             "module = sys.modules['gpt4x.report'] = types.ModuleType('gpt4x.report')\n"
             "module.main = lambda _: print('imported' if 'tensorflow' in sys.modules else 'not imported')\n"
             "sys.exit(cli.main(['report', '--model_dir=a']))")
  environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
  result = subprocess.run(
      [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment)
  assert (result.returncode, result.stdout, result.stderr) == (0, "imported\n", "")


def test_output_that_nobody_reads_any_more_is_no_error(tmp_path):
  program = ("import sys, types; from gpt4x import cli\n"
             "module = sys.modules['gpt4x.report'] = types.ModuleType('gpt4x.report')\n"
             "module.main = lambda _: print('x' * 1_000_000)\n"
             "sys.exit(cli.main(['report', '--model_dir=a']))")
  process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  process.stdout.close()
  assert process.stderr.read() == b"" and process.wait() == 141
  process.stderr.close()
