"""Trackers show each step of a run once, over kills, lost networks and going back; none of them can end a run."""

import importlib.util
import json
import logging
import pathlib
import struct

import jax
import numpy as np
import pytest

from gpt4x import cli
from gpt4x.errors import UserError
from gpt4x.evaluation.contact_sheet import Cell
from gpt4x.evaluation.gallery import Gallery
from gpt4x.media.medium import Image
from gpt4x.training.metrics import MetricsWriter
from gpt4x.training.trackers import link, tracker
from gpt4x.training.trackers.mlflow import MLflow
from gpt4x.training.trackers.tensorboard import TensorBoard
from gpt4x.training.trackers.weights_and_biases import WeightsAndBiases
from tests.integration import corpus


def installed(package):
  return pytest.mark.skipif(importlib.util.find_spec(package) is None,
                            reason=f"{package} is not installed: pip install 'gpt4x[{package}]'")


class Recorder:
  """A tracker that keeps what it is told; with `fails`, from its second value on it raises."""

  def __init__(self, fails=None):
    self.run, self.found, self.closed, self._fails = None, [], False, fails

  def start(self, run):
    self.run = run
    return self

  def write(self, step, values):
    if self._fails and self.found:
      raise self._fails
    self.found.append((step, dict(values)))

  def flush(self):
    pass

  def close(self):
    self.closed = True


def start(folder, trackers, step=-1, went_back=False):
  writer = MetricsWriter(str(folder))
  writer.start(trackers, step, 'A.b = 3\n', went_back)
  return writer


def write(writer, steps, factor=1.0):
  for step in steps:
    writer.write(step, "train", {"loss": factor / step})
    if step % 4 == 0:
      writer.write(step, "validation", {"loss": factor * 2 / step, "perplexity": float("inf")})


def shown(steps, factor=1.0):
  """{name: [(step, value)]} of what `write` writes."""
  curves = {"train/loss": [(step, factor / step) for step in steps],
            "validation/loss": [(step, factor * 2 / step) for step in steps if step % 4 == 0],
            "validation/perplexity": [(step, float("inf")) for step in steps if step % 4 == 0]}
  return {name: curve for name, curve in curves.items() if curve}


def test_a_tracker_gets_what_metrics_jsonl_gets(tmp_path):
  recorder = Recorder()
  write(start(tmp_path, [recorder]), range(1, 6))
  assert recorder.found[3:5] == [(4, {"train/loss": 0.25}), (4, {"validation/loss": 0.5,
                                                                 "validation/perplexity": float("inf")})]
  again = Recorder()
  start(tmp_path, [again], step=3, went_back=True).close()
  assert (again.run.model_dir, again.run.step, again.run.gin_text) == (str(tmp_path), 3, "A.b = 3\n")
  assert [line["step"] for line in again.run.kept] == [1, 2, 3] and again.run.went_back and again.closed
  assert [(line["step"], line["split"]) for line in again.run.retaken] == [
      (4, "train"), (4, "validation"), (5, "train")]


class Watcher(Recorder):
  """One that shows pictures."""

  def show(self, step, name, picture, sounds):
    self.found.append((step, name, picture.shape, sounds))


def show(writer, steps):
  for step in steps:
    writer.write(step, "validation", {"loss": 1.0})
    writer.show(step, "validation", Gallery([Cell("", [Image(np.full((8, 8, 1), step, np.uint8))])]))


def test_a_tracker_may_show_pictures(tmp_path):
  """One that has no way to is not asked."""
  recorder, watcher = Recorder(), Watcher()
  show(start(tmp_path, [recorder, watcher]), (3,))
  [shown] = [entry for entry in watcher.found if len(entry) == 4]
  assert shown[:2] == (3, "validation/samples") and shown[2][2] == 3 and shown[3] == {}
  assert recorder.found == [(3, {"validation/loss": 1.0})]


@pytest.mark.parametrize("fails", [ConnectionError("no route"), RuntimeError("a\nb"), SystemError()])
def test_a_tracker_that_fails_is_left_out_with_one_warning(tmp_path, capsys, fails):
  failing, other = Recorder(fails), Recorder()
  writer = start(tmp_path, [failing, other])
  write(writer, range(1, 4))
  writer.close()
  assert len(failing.found) == 1 and len(other.found) == 3 and other.closed
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith(f"gpt4x: warning: Recorder gets no more of this run, which goes on ({type(fails).__name__}: ")


def test_a_mistake_of_the_users_ends_the_run(tmp_path):
  writer = start(tmp_path, [Recorder(UserError("the disk is full"))])
  with pytest.raises(UserError, match="disk"):
    write(writer, (1, 2))


def test_only_the_first_process_starts_trackers(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  recorder = Recorder()
  write(start(tmp_path, [recorder]), (1, 2))
  assert recorder.run is None and not recorder.found and not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line_before_anything_is_read(tmp_path, monkeypatch, capsys):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
  flags = ["train", f"--gin_file={corpus.GIN_FILE}", f"--model_dir={tmp_path}/run",
           "--gin.LocalText.files='none/*.txt'", "--gin.train.trackers=(@TensorBoard(), @WeightsAndBiases())"]
  assert cli.main(flags) == 1
  assert capsys.readouterr().err.splitlines()[-1] == (
      "gpt4x: error: train.trackers has WeightsAndBiases, but wandb is not installed: pip install 'gpt4x[wandb]'")


def test_the_loop_tells_its_trackers_of_the_run(tmp_path, monkeypatch):
  """By gin, over going back; without any there are no events."""
  recorders = []
  monkeypatch.setattr(TensorBoard, "start", lambda _, run: recorders.append(Recorder()) or recorders[-1].start(run))
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", TRAIN_STEPS=3, EVAL_PERIOD=None,
                       CHECKPOINT_PERIOD=2)
  assert cli.main(flags) == 0
  assert cli.main([*flags, "--step=2", "--gin.train.trackers=[@TensorBoard()]"]) == 0
  first, second = recorders
  steps = [step for step, _ in first.found]
  assert steps == [1, 2, 3] and first.closed and not first.run.went_back and first.run.step == -1
  assert second.run.went_back and second.run.step == 2 and [step for step, _ in second.found] == [3]
  assert "train.total_steps" in first.run.gin_text
  assert cli.main([*flags[:-1], "--gin.TRAIN_STEPS=4", "--gin.train.trackers=()"]) == 0
  assert len(recorders) == 2 and not list((tmp_path / "run").glob("events*"))


def test_settings_are_those_of_the_gin_text():
  text = ("import a.b\nfrom __gin__ import dynamic_registration\n\n# Macros:\n# ====\nPEAK = 3e-4\nNAME = 'x'\n"
          "# Parameters for A:\n# =====\nA.long = \\\n    'on a line of its own'\nA.steps = %STEPS\n"
          "A.files = ('a',\n           'b')\nscope/A.flag = None\n")
  assert link.settings(text) == {
      "PEAK": 3e-4, "NAME": "x", "A.long": "on a line of its own", "A.steps": "%STEPS", "A.files": "('a', 'b')",
      "scope/A.flag": "None"}


# Weights & Biases, offline.

def read_wandb(folder):
  """[(run, group, {name: [(step, value)]}, config)] of the files of a folder, in the order of their making."""
  import wandb
  from wandb.proto import wandb_internal_pb2 as wire
  wandb.teardown()  # Ends W&B's process, which writes the files, as the end of a program does.
  found = []
  for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
    curves, run = {}, None
    for content in records(path.read_bytes()):
      record = wire.Record.FromString(content)
      if record.HasField("run"):
        run = record.run
      values = {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
                for item in record.history.item}
      for name, value in values.items():
        if not name.startswith("_"):
          curves.setdefault(name, []).append((values["_step"], float(value)))
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in run.config.update}
    found.append((run.run_id, run.run_group, curves, config))
  return found


def records(content):
  """The records of a .wandb file, a LevelDB log behind a header of 7 bytes: blocks of 32 KiB, with pieces in each."""
  record, position = b"", 7
  while position + 7 <= len(content):
    if 2**15 - position % 2**15 < 7:  # No piece begins so near to the end of a block.
      position += 2**15 - position % 2**15
      continue
    _, length, kind = struct.unpack("<IHB", content[position:position + 7])
    record += content[position + 7:position + 7 + length]
    position += 7 + length
    if kind in (1, 4):  # Whole, or the last piece of one.
      yield record
      record = b""


@installed("wandb")
def test_weights_and_biases(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_DIR", "/nowhere")  # The model directory is where it writes.
  trackers = [WeightsAndBiases(project="p", mode="offline")]
  killed = start(tmp_path, trackers)
  write(killed, range(1, 11))
  killed.close()
  resumed = start(tmp_path, trackers, step=6)
  write(resumed, range(7, 14))
  resumed.close()
  (run, group, first, config), (same, _, second, _) = read_wandb(tmp_path)
  assert run == same == json.loads((tmp_path / "wandb.json").read_text())["id"] and group == run
  assert config["A.b"] == 3
  both = {name: first.get(name, []) + second.get(name, []) for name in first}
  assert both == shown(range(1, 14)), "each step once, and rising"
  back = start(tmp_path, trackers, step=5, went_back=True)
  write(back, range(6, 9), factor=3.0)
  back.close()
  other, group, third, _ = read_wandb(tmp_path)[-1]
  expected = {name: curve + shown(range(6, 9), 3.0).get(name, []) for name, curve in shown(range(1, 6)).items()}
  for curves in (third, expected):  # What metrics.jsonl has is not a number, whichever it was.
    del curves["validation/perplexity"]
  assert other != run == group and third == expected, "what was before is in the new run too"


@installed("wandb")
def test_weights_and_biases_shows_pictures_once(tmp_path):
  import wandb
  trackers = [WeightsAndBiases(project="p", mode="offline")]
  for steps, at in (((1, 2, 3), -1), ((3, 4), 2)):
    writer = start(tmp_path, trackers, step=at)
    show(writer, steps)
    writer.close()
  wandb.teardown()
  assert len(list((tmp_path / "wandb").glob("offline-run-*/files/media/images/validation/samples_*.png"))) == 4


@installed("wandb")
def test_weights_and_biases_that_refuse(tmp_path, monkeypatch):
  """Without a key and a terminal; and without a network, which is no mistake."""
  import wandb
  refuses = lambda error: monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(error))
  refuses(wandb.errors.UsageError("No API key configured. Use `wandb login` to log in."))
  with pytest.raises(UserError, match="No API key configured.*WeightsAndBiases.mode = 'offline'"):
    start(tmp_path, [WeightsAndBiases()])
  refuses(wandb.errors.CommError("timed out"))
  write(start(tmp_path, [WeightsAndBiases()]), (1,))


# MLflow, in files.

@pytest.fixture(name="store")
def _store(tmp_path, monkeypatch):
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # A database takes a minute to make.
  monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
  logging.getLogger("mlflow").setLevel(logging.ERROR)
  return (tmp_path / "store").as_uri()


def read_mlflow(store):
  """[(run, {name: [(step, value)]}, its tags and parameters)], oldest first."""
  from mlflow.tracking import MlflowClient
  client, found = MlflowClient(store), []
  experiment = client.get_experiment_by_name("e")
  for run in sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time):
    curves = {name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
              for name in run.data.metrics}
    found.append((run.info.run_id, curves, run.data.tags | run.data.params))
  return found


@installed("mlflow")
def test_mlflow(tmp_path, store):
  trackers = [MLflow("e", store)]
  write(killed := start(tmp_path, trackers), range(1, 11))
  [(_, tracking)] = killed._trackers._open
  tracking._raise_failures(wait=True)  # All is sent, and nothing closed.
  resumed = start(tmp_path, trackers, step=6)
  write(resumed, range(7, 14))
  resumed.close()
  [(run, curves, told)] = read_mlflow(store)
  curves["validation/perplexity"] = shown(range(1, 14))["validation/perplexity"]  # Files hold no infinity.
  assert {name: sorted(curve) for name, curve in curves.items()} == shown(range(1, 14)), "each step once"
  assert told["A.b"] == "3" and told["mlflow.runName"] == tmp_path.name
  back = start(tmp_path, trackers, step=5, went_back=True)
  write(back, (6, 7), factor=3.0)
  back.close()
  [_, (other, curves, told)] = read_mlflow(store)
  assert other != run == told["mlflow.parentRunId"] and told["gpt4x.went_back_to"] == "5"
  assert curves["train/loss"] == shown(range(1, 6))["train/loss"] + shown((6, 7), 3.0)["train/loss"]


@installed("mlflow")
def test_mlflow_shows_pictures_once(tmp_path, store):
  from mlflow.tracking import MlflowClient
  for steps, at in (((1, 2, 3), -1), ((3, 4), 2)):
    writer = start(tmp_path, [MLflow("e", store)], step=at)
    show(writer, steps)
    writer.close()
  [(run, _, _)] = read_mlflow(store)
  assert [one.path for one in MlflowClient(store).list_artifacts(run, "validation")] == [
      f"validation/samples_{step}.png" for step in (1, 2, 3, 4)]


@installed("mlflow")
def test_mlflow_gets_what_it_lacks(tmp_path, store, monkeypatch, capsys):
  """What a run wrote before it was tracked, and while nothing could be sent; in a store that was lost, all."""
  start(tmp_path, []).close()
  write(start(tmp_path, []), range(1, 6))
  trackers = [MLflow("e", store)]
  from mlflow.tracking import MlflowClient
  with monkeypatch.context() as patch:
    writer = start(tmp_path, trackers, step=5)
    patch.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route")))
    write(writer, range(6, 9))
    writer.close()
  assert capsys.readouterr().err.count("MLflow gets no more of this run") == 1
  write(again := start(tmp_path, trackers, step=8), (9,))
  again.close()
  [(_, curves, _)] = read_mlflow(store)
  assert sorted(curves["train/loss"]) == shown(range(1, 10))["train/loss"]
  elsewhere = (pathlib.Path(tmp_path) / "elsewhere").as_uri()
  start(tmp_path, [MLflow("e", elsewhere)], step=9).close()
  [(_, curves, _)] = read_mlflow(elsewhere)
  assert sorted(curves["train/loss"]) == shown(range(1, 10))["train/loss"]


def test_a_damaged_link_is_a_new_run(tmp_path):
  for content in (b"", b"\xff", b"[]", b'{"id": '):
    (tmp_path / "wandb.json").write_bytes(content)
    assert link.Link(tracker.Run(str(tmp_path)), "wandb.json").id is None
