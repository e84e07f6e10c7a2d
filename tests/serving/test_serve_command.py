"""`gpt4x serve`: names of models, keys, and which hosts need them."""

import contextlib
import sys
import types

import pytest

from gpt4x import cli, configuration
from gpt4x.commands import reading, serve
from gpt4x.errors import CommandError, UserError
from gpt4x.serving import server
from tests.serving.fake import Fake

KEY = "k" * 32


@pytest.fixture(name="served")
def _served(monkeypatch):
  """What the command makes: (models, settings, host, port), and what was loaded."""
  made, loaded = [], []
  model = types.ModuleType("gpt4x.serving.model")
  model.load = lambda name, *rest, **options: loaded.append((name, *rest, options)) or Fake(name)
  monkeypatch.setitem(sys.modules, "gpt4x.serving.model", model)
  monkeypatch.setattr(reading, "saved_experiment", lambda model_dir, data: f"experiment of {model_dir}")
  monkeypatch.setattr(configuration, "placing", contextlib.nullcontext)
  def run(self, tell):
    made.append((self._app.context.models, self._app.context.settings, self.config.host, self.config.port))
    tell("127.0.0.1", 1234)
  monkeypatch.setattr(server.Server, "run_until_ended", run)
  return made, loaded


def test_what_the_flags_mean(served, capsys, tmp_path):
  (tmp_path / "keys").write_text(f"# mine\n\n{KEY}\n  {KEY}2\n")
  assert cli.main([
      "serve", "--model_dir=runs/a/", "--model_dir=b=gs://bucket/runs/other", "--host=0.0.0.0", "--port=99",
      f"--api_key_file={tmp_path}/keys", "--allowed_host=Models.Example", "--slots=3", "--max_queue=5", "--step=7",
      "--prefix_cache_mib=2", "--window=9", "--speculate", "--max_body=100", "--max_n=4", "--grace=1.5"]) == 0
  (models, settings, host, port), = served[0]
  assert list(models) == ["a", "b"] and (host, port) == ("0.0.0.0", 99)
  options = {"slots": 3, "max_queue": 5, "step": 7, "prefix_bytes": 2**21, "window": 9, "speculate": True}
  assert served[1] == [("a", "runs/a/", "experiment of runs/a/", options),
                       ("b", "gs://bucket/runs/other", "experiment of gs://bucket/runs/other", options)]
  assert settings.keys == (KEY.encode(), f"{KEY}2".encode())
  assert settings.hosts == {"localhost", "127.0.0.1", "::1", "0.0.0.0", "models.example"}
  assert (settings.max_body, settings.max_n, settings.grace) == (100, 4, 1.5)
  captured = capsys.readouterr()
  assert captured.err == "serving a, b at http://127.0.0.1:1234\n" and KEY not in captured.out


@pytest.mark.parametrize("host, open_to_others", [
    ("127.0.0.1", False), ("127.8.8.8", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
    ("10.0.0.1", True), ("localhost.example", True), ("127.0.0.1.example", True)])
def test_who_listens_to_others_needs_keys(served, capsys, host, open_to_others):
  assert cli.main(["serve", "--model_dir=a", f"--host={host}"]) == (2 if open_to_others else 0)
  assert not open_to_others or "give --api_key_file=FILE" in capsys.readouterr().err
  assert len(served[1]) == (not open_to_others)


@pytest.mark.parametrize("given, names", [
    (["runs/a"], ["a"]), (["runs/a//", "x=runs/a"], ["a", "x"]), (["runs/k=v"], ["k=v"]), (["m=runs/k=v"], ["m"]),
    (["gs://bucket/a"], ["a"])])
def test_names(given, names):
  if any("=" in name for name in names):
    with pytest.raises(CommandError, match="is no name for a model: write --model_dir=NAME="):
      serve.named(given)
  else:
    assert list(serve.named(given)) == names


def test_the_directory_one_stands_in_has_its_name(monkeypatch, tmp_path):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  assert list(serve.named(["."])) == ["here"]


def test_two_models_of_one_name():
  with pytest.raises(CommandError, match="two models have the name a: write --model_dir=NAME=DIR"):
    serve.named(["runs/a", "other/a"])


@pytest.mark.parametrize("text, words", [
    ("", "has no key"), ("# none\n", "has no key"), ("short\n", "key 1 must have at least 16"),
    (f"{KEY}\n{KEY} {KEY}\n", "key 2 must have"), (f"{KEY}é\n", "key 1 must have")])
def test_files_of_keys(tmp_path, text, words):
  (tmp_path / "keys").write_text(text)
  with pytest.raises(UserError, match=words) as caught:
    serve.read_keys(str(tmp_path / "keys"))
  assert f"{KEY} " not in str(caught.value) and "é" not in str(caught.value)


def test_a_file_of_keys_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="No such file or directory: check that path"):
    serve.read_keys(str(tmp_path / "keys"))


def test_packages_are_optional(served, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "starlette", None)
  assert cli.main(["serve", "--model_dir=a"]) == 1
  assert "needs starlette, which is not installed: pip install 'gpt4x[serve]'" in capsys.readouterr().err
