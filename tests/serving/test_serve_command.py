"""`gpt4x serve`: names of models, keys, and which hosts need them."""

import contextlib
import sys
import types

import pytest

from gpt4x import cli, configuration
from gpt4x.commands import reading, serve
from gpt4x.errors import CommandError, UserError
from gpt4x.inference.speculation import PromptLookup
from gpt4x.serving import server
from tests.serving.fake import Fake

KEY = "k" * 32


@pytest.fixture(name="served")
def _served(monkeypatch):
  """What the command makes: (models, settings, host, port), and what was loaded."""
  made, loaded = [], []
  model = types.ModuleType("gpt4x.serving.model")
  model.load = lambda name, *rest, **options: loaded.append((name, *rest, options)) or Fake(name)
  model.drafting = lambda draft_dir, draft, model_dir, partitioner: (draft_dir, draft, model_dir)
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
  for _, model_dir, experiment, options in served[1]:
    assert isinstance(options.pop("propose"), PromptLookup)
    assert options.pop("partitioner").mesh.size == 1 and experiment == f"experiment of {model_dir}"
    assert options == {"slots": 3, "max_queue": 5, "step": 7, "prefix_bytes": 2**21, "window": 9, "seconds": None}
  assert [one[:2] for one in served[1]] == [("a", "runs/a/"), ("b", "gs://bucket/runs/other")]
  assert settings.keys == (KEY.encode(), f"{KEY}2".encode())
  assert settings.hosts == {"localhost", "127.0.0.1", "::1", "0.0.0.0", "models.example"}
  assert (settings.max_body, settings.max_n, settings.grace) == (100, 4, 1.5)
  captured = capsys.readouterr()
  assert captured.err == "serving a, b at http://127.0.0.1:1234\n" and KEY not in captured.out


def test_a_mesh_and_a_model_that_drafts(served):
  assert cli.main(["serve", "--model_dir=runs/a", "--mesh=fsdp=2,tensor=4", "--draft_dir=runs/small"]) == 0
  (*_, options), = served[1]
  assert {axis: size for axis, size in options["partitioner"].mesh.shape.items() if size > 1} == {
      "fsdp": 2, "tensor": 4}
  assert options["propose"] == ("runs/small", "experiment of runs/small", "runs/a")


@pytest.mark.parametrize("mesh, message", [
    ("tensor", "is not AXIS=N"), ("heads=2", "is not AXIS=N"), ("tensor=0", "is not AXIS=N"), ("", "is not AXIS=N"),
    ("tensor=2,tensor=2", "is not AXIS=N"), ("tensor=2,", "is not AXIS=N"), ("tensor=64", "does not fit the")])
def test_meshes_that_are_none(served, capsys, mesh, message):
  assert cli.main(["serve", "--model_dir=a", f"--mesh={mesh}"]) and not served[1]
  assert message in capsys.readouterr().err


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
