"""How a command ends, whatever happens in it: its exit status, its last line, its streams."""

import errno
import os
import subprocess
import sys
import types

import gin
import pytest

from gpt4x import cli
from gpt4x.errors import CommandError, UserError


@gin.configurable
def fail_inside_gin(error):
  raise error


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
    *((OSError(code, os.strerror(code), "/runs/a"), ["/runs/a", os.strerror(code)]) for code in (
        errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE,
        errno.EMFILE, errno.EFBIG, errno.EBUSY)),
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


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EINVAL, errno.EXDEV])
def test_any_error_of_the_system_s_that_names_a_path_is_one_line(monkeypatch, capsys, code):
  raised(monkeypatch, OSError(code, os.strerror(code), "/runs/a"))
  assert cli.main(["report", "--model_dir=a"]) == 1
  assert capsys.readouterr().err == f"gpt4x: error: [Errno {code}] {os.strerror(code)}: '/runs/a': check that path\n"


def test_a_defect_keeps_its_traceback_and_ends_with_one_line(monkeypatch, capsys):
  raised(monkeypatch, KeyError("a defect"))
  assert cli.main(["report", "--model_dir=a"]) == 1
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("Traceback") and lines[-1] == "gpt4x: error: KeyError: 'a defect'"


def test_an_interrupt(monkeypatch, capsys):
  raised(monkeypatch, KeyboardInterrupt())
  assert cli.main(["report", "--model_dir=a"]) == 130
  assert "Traceback" not in capsys.readouterr().err


def start(program: str, shell: str = 'exec "$@"', **options) -> subprocess.Popen:
  """A process in which `gpt4x report` does what `run` in `program` does, started by a shell."""
  program = ("import os, signal, sys, types; from gpt4x import cli\n"
             f"{program}\n"
             "module = sys.modules['gpt4x.commands.report'] = types.ModuleType('gpt4x.commands.report')\n"
             "module.run = run\n"
             "sys.argv = ['gpt4x', 'report', '--model_dir=a']\n"
             "sys.exit(cli.main())")
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3",
                 "PYTHONUNBUFFERED": ""}  # Or nothing would be left to write at the end.
  return subprocess.Popen(["sh", "-c", shell, "sh", sys.executable, "-c", program], text=True,
                          **{"env": environment} | options)


def test_an_interrupt_that_a_library_swallows():
  """C++ that calls Python prints a KeyboardInterrupt, or drops it, and goes on."""
  process = start("signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # Else ignored where these tests are.
                  "def run(_):\n"
                  "  class Caller:\n"
                  "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
                  "  Caller()\n"
                  "  print('went on')", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.communicate() == ("", "gpt4x: interrupted\n") and process.returncode == 130


def test_an_interrupt_that_the_shell_ignores():
  """As for a command in the background of a script."""
  process = start("signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                  "def run(_):\n"
                  "  os.kill(os.getpid(), signal.SIGINT)\n"
                  "  print('went on')", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.communicate() == ("went on\n", "") and process.returncode == 0


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {
    "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}], ids=lambda variables: next(iter(variables)))
def test_what_a_terminal_cannot_show_is_replaced(variables):
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
  process = start("from gpt4x.errors import UserError\n"
                  "def run(_):\n"
                  "  print('a \\u20ac \\udce9')\n"
                  "  raise UserError('b \\u20ac')", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
  assert process.communicate() == ("a ? ?\n", "gpt4x: error: b ?\n") and process.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tmp_path):
  """Nothing is written to a file that has taken the number of a closed one."""
  program = ("def run(_):\n"
             "  with open('file', 'w') as file:\n"
             "    assert file.fileno() > 2\n"
             "    print('output')\n"
             "    os.write(1, b'output')\n"
             "    os.write(2, b'error')")
  assert start(program, shell=f'exec "$@" {closed}', cwd=tmp_path).wait() == 0
  assert (tmp_path / "file").read_text() == ""


def test_an_output_that_cannot_be_written(tmp_path):
  with open("/dev/full", "w") as full:
    process = start("def run(_): print('x')", stdout=full, stderr=subprocess.PIPE)
    _, error = process.communicate()
  assert process.returncode == 1 and error.count("\n") == 1 and "No space left on device: free some space" in error


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
  assert set(commands) == files - {"__init__", "running", "reading", "media_files"}


def test_libraries_start_silently(tmp_path):
  program = ("import sys, types; from gpt4x import cli\n"
             "module = sys.modules['gpt4x.commands.report'] = types.ModuleType('gpt4x.commands.report')\n"
             "module.run = lambda _: print('imported' if 'tensorflow' in sys.modules else 'not imported')\n"
             "sys.exit(cli.main(['report', '--model_dir=a']))")
  environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
  result = subprocess.run(
      [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment)
  assert (result.returncode, result.stdout, result.stderr) == (0, "imported\n", "")


def test_output_that_nobody_reads_any_more_is_no_error():
  process = start("def run(_): print('x' * 1_000_000)", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  process.stdout.close()
  assert process.stderr.read() == "" and process.wait() == 141
  process.stderr.close()


@pytest.mark.parametrize("argv", [["vo\ncabulary"], ["train", "--a\nb"], ["plan", "--topology=v5p:1x1", "--gin.A\nB=1"],
                                  ["export\x1b[2J"], ["train", "--model_dir=a", "--gin." + "x" * 5000 + "=1"]])
def test_a_message_is_one_line_that_can_be_printed_whatever_it_repeats(argv, capsys, monkeypatch):
  monkeypatch.undo()
  assert cli.main(argv) == 2
  message = capsys.readouterr().err
  assert message.startswith("gpt4x: error: ") and message.count("\n") == 1
  assert message[:-1].isprintable() and len(message) < 2000
