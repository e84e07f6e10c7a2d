"""The command line: what reaches the library behind it, and which flags are refused."""

import dataclasses
import errno
import io
import json
import os
import pathlib
import sys
import types

import gin
import pytest

from gpt4x import cli, configuration
from gpt4x.commands import running
from gpt4x.errors import CommandError
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.text import Completion
from gpt4x.launch.clusters import Processes
from gpt4x.planning.chips import parse_topology


@gin.configurable("train_stand_in")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What the commands know of the real one."""

  experiment: object = None
  partitioner: object = "mesh"


class Experiment:
  """What the commands know of the real one; all are equal."""

  model = language_model = types.SimpleNamespace(
      config=types.SimpleNamespace(num_params=lambda: 1234), frozen_models={})
  def __eq__(self, other):
    return isinstance(other, Experiment)

  def of_run(self, model_dir):
    return self

  def restore_params(self, model_dir, partitioner, step):
    return step, (model_dir, partitioner.num_devices)


EXPERIMENT, CONFIG, SAVED = Experiment(), TrainConfig(), TrainConfig(Experiment())
COMPLETIONS = [Completion(prompt, sample, str(sample + 1), "length", [5], [-0.12345678])
               for prompt in "aü" for sample in (0, 1)]
REACHED = {"first": {"bits_per_byte": 8.0, "step": 0, "tokens": 9, "partial": 1.0},
           "last": {"bits_per_byte": 2.5, "step": 7, "tokens": 1234}, "baselines": {"gzip -9": 1.5},
           "tokens_per_second": 10.0, "mfu": 0.5, "measure": "bits_per_byte", "unit": "bits per byte"}


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

  def generator(*args, **kwargs):
    recorded.append(("generator", *args, kwargs))
    return types.SimpleNamespace(
        prompt=lambda text, media: text, stream=recorder("stream", iter(["b", "c"])),
        complete=recorder("complete", COMPLETIONS))

  foreign = types.SimpleNamespace(text=None, data="DATA", bindings=["A=1"], model=Experiment.model, vocabulary=None,
                                  files={}, params="PARAMS")
  stand_ins = {
      "tasks": {},
      "experiment": {"Experiment": Experiment},
      "training.config": {"TrainConfig": TrainConfig},
      "training.loop": {"train": recorder("loop", 75)},
      "training.summary": {"Summary": object, "SPLIT": "validation", "summarize": lambda model_dir, experiment: (
          types.SimpleNamespace(model_dir=model_dir, **REACHED))},
      "training.page": {"page": recorder("page", "a page")},
      "training.plots": {"plot_losses": recorder("plot")},
      "evaluation.likelihood": {"evaluate": recorder("evaluate", {"loss": 0.123456789, "tokens": 12345678})},
      "inference.generate": {"Generator": generator},
      "data.tensorflow_quietly": {},
      "data.vocabularies": {"model_path": pathlib.Path, "train_from_task": recorder("train_from_task", "o"),
                            "load": recorder("vocabulary", "words"), "save": recorder("save_vocabulary")},
      "interop.t5x": {},
      "interop.t5x.loop": {"train": recorder("t5x", 75)},
      "interop.t5x.crossing": {"bring_over": recorder("bring_over")},
      "interop.model_directories": {"read": recorder("read", foreign), "keep": recorder("keep"), "foreign": foreign},
      "interop.exports": {"save": recorder("export")},
      "planning.compiler": {"topology_devices": recorder("devices", ["chip"] * 8)},
      "planning.steps": {"TrainingStep": types.SimpleNamespace(of=recorder("step", "step")),
                         "DecodingStep": types.SimpleNamespace(of=recorder("decoding_step", "decoding step"))},
      "planning.decoding": {"plans": recorder("plans", [Plan("one"), Plan("two")]),
                            "describe": recorder("describe_decoding", "a table")},
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
                   ("bring_over", "runs/a", CONFIG, {}), ("loop", "runs/a", CONFIG, (10, 12), None, {})]


def test_train_without_a_file_continues_the_run(calls):
  assert cli.main(["train", "--model_dir=runs/a", "--gin.TRAIN_STEPS=9"]) == 75
  assert calls == [("load_run", "runs/a", {"bindings": ["TRAIN_STEPS=9"]}),
                   ("bring_over", "runs/a", SAVED, {}), ("loop", "runs/a", SAVED, None, None, {})]


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


TEXT = {"output": None, "guidance": 1.0, "suffix": None, "marks": False, "datastore": None}


def test_generate(calls, capsys):
  """Every flag has another value, so that no two can be taken for each other."""
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt=-- a\n", "--top_k=5", "--top_p=1", "--temperature=0.5",
                   "--seed=7", "--max_tokens=9", "--step=3", "--stop=x", "--stop=-y"]) == 0
  assert calls == [
      ("load_run", "runs/a", (), (), {"needed": "the model"}),
      ("generator", "runs/a", EXPERIMENT, TEXT | {"step": 3, "sampling": Sampling(0.5, top_k=5, top_p=1.0)}),
      ("stream", "-- a\n", {"max_tokens": 9, "seed": 7, "stop": ["x", "-y"]})]
  assert capsys.readouterr().out == "-- a\nbc\n"


DEFAULTS = {"max_tokens": None, "seed": 0, "stop": []}


def test_generate_by_default(calls):
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt="]) == 0
  assert calls[1:] == [("generator", "runs/a", EXPERIMENT, TEXT | {"step": None, "sampling": Sampling()}),
                       ("stream", "", DEFAULTS)]


def test_generate_many(calls, capsys):
  argv = ["generate", "--model_dir=runs/a", "--prompt=a", "--prompt=ü", "--num_samples=2", "--batch_size=3"]
  assert cli.main(argv) == 0
  assert calls[2:] == [("complete", ["a", "ü"], {"num_samples": 2, "batch_size": 3} | DEFAULTS)]
  assert capsys.readouterr().out == (
      "--- prompt 1, sample 1\na1\n--- prompt 1, sample 2\na2\n--- prompt 2, sample 1\nü1\n"
      "--- prompt 2, sample 2\nü2\n")
  assert cli.main([*argv, "--json"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [json.loads(line) for line in lines] == [
      dataclasses.asdict(one) | {"log_probs": [-0.123457]} for one in COMPLETIONS]
  calls.clear()
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt=a", "--json"]) == 0
  assert calls[2][:2] == ("complete", ["a"])


@pytest.mark.parametrize("content", [
    b'{"prompt": "a"}\n\n{"id": 1, "prompt": "\\u00fc\\nb"}',
    b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "\xc3\xbc\\nb"}\r\n'])
@pytest.mark.parametrize("name", ["file", "-"])
def test_generate_from_a_file_of_prompts(calls, monkeypatch, tmp_path, content, name):
  (tmp_path / "prompts").write_bytes(content)
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
  name = str(tmp_path / "prompts") if name == "file" else name
  assert cli.main(["generate", "--model_dir=runs/a", f"--prompt_file={name}"]) == 0
  assert calls[-1][:2] == ("complete", ["a", "ü\nb"])


@pytest.mark.parametrize("content, words", [
    (b"", "has no prompts"), (b"\n \n", "has no prompts"), (b'{"prompt": "a"}\nb', "line 2"),
    (b'{"text": "a"}', "line 1"),
    (b'{"prompt": 1}', "line 1"), (b'["prompt"]', "line 1"), (b'"prompt"', "line 1"), (b"1", "line 1"),
    (b'{"prompt": "\\ud800"}', "line 1"), (b'{"prompt": "a"', "line 1"), (b'\n{"prompt": "\xe9"}', "byte 0xe9"),
    (b"[" * 10**6, "line 1"), (None, "no file")], ids=lambda value: repr(value)[:20])
def test_a_file_without_prompts(calls, capsys, tmp_path, content, words):
  if content is not None:
    (tmp_path / "prompts").write_bytes(content)
  status, line = failure(capsys, "generate", "--model_dir=runs/a", f"--prompt_file={tmp_path}/prompts")
  assert status == 1 and words in line and f"{tmp_path}/prompts" in line and not calls


def test_media_are_in_the_order_of_the_command_line():
  """Across the three flags; with a medium or an output, a prompt may be left out."""
  parse = lambda *flags: cli._parse(["generate", "--model_dir=a", *flags])
  found = parse("--video=1", "--image=2", "--prompt=p", "--audio=3", "--image=4", "--size=2x30", "--guidance=1.5")
  assert found.media == [("video", "1"), ("image", "2"), ("audio", "3"), ("image", "4")]
  assert (found.size, found.guidance, found.seconds, found.prompt) == ((2, 30), 1.5, None, ["p"])
  assert parse("--image=1").prompt is None and parse("--output=x.png").media == []
  assert parse("--prompt=p").media == [], "nothing is left of what another command line had"


def test_a_file_of_prompts_that_may_not_be_read(capsys, monkeypatch):
  """Not "missing": the file is there."""
  def denied(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
  monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
  status, line = failure(capsys, "generate", "--model_dir=runs/a", "--prompt_file=/a/prompts")
  assert status == 1 and line == "/a/prompts cannot be read (Permission denied): correct --prompt_file"


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
  kept = ("keep", model_dir, foreign, {"where": "a/config.gin"})
  assert cli.main(argv) == 0
  assert calls == [read, kept]
  captured = capsys.readouterr()
  assert captured.out == f"wrote {model_dir}: 1,234 parameters\n" and "a has no vocabulary" in captured.err
  calls.clear()
  foreign.vocabulary = "words"
  assert cli.main(argv) == 0 and capsys.readouterr().err == ""
  assert calls == [read, kept]
  calls.clear()
  (model_dir / "checkpoints").mkdir(parents=True)
  status, line = failure(capsys, *argv)
  assert status == 1 and "has a run already (checkpoints)" in line and not calls


def test_a_vocabulary_takes_no_device_s_or_directory_s_place(calls, capsys, tmp_path):
  """As root, /dev/null would be replaced."""
  for path in ("/dev/null", str(tmp_path)):
    status, line = failure(capsys, "vocabulary", "--task=t", "--size=300", f"--output={path}")
    assert status == 1 and path in line and "no regular file" in line
  assert [name for name, *_ in calls] == ["load", "load"], "nothing is trained"


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


def test_plan_of_decoding(calls, capsys, monkeypatch):
  monkeypatch.setattr("gpt4x.partitioning.Partitioner", lambda: "mesh")
  gin.bind_parameter("train_stand_in.experiment", EXPERIMENT)
  argv = ["plan", "--decode", "--topology=v5p:2x2x2", "--gin_file=a.gin", "--gin.A=1"]
  topology = parse_topology("v5p:2x2x2")
  assert cli.main([*argv, "--batch_size=4", "--window=8"]) == 0 and capsys.readouterr().out == "a table\n"
  assert calls == [("devices", topology, {}), ("load", ("runs/train.gin", "a.gin"), ["A=1"], {}),
                   ("decoding_step", EXPERIMENT, 4, 8, {}),
                   ("plans", "decoding step", "mesh", topology, {"compiled": True}),
                   ("describe_decoding", [Plan("one"), Plan("two")], {})]
  calls.clear()
  assert cli.main([*argv, "--window=8", "--json"]) == 0 and calls[2] == ("decoding_step", EXPERIMENT, 16, 8, {})
  assert json.loads(capsys.readouterr().out) == [{"step": "one"}, {"step": "two"}]


def test_report(calls, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs" / "a").mkdir(parents=True)
  assert cli.main(["report", "--model_dir=runs/a", "--prompt=x", "--prompt=y", "--num_samples=2"]) == 0
  (_, found, *given, _), = [call for call in calls if call[0] == "page"]
  assert found.model_dir == "runs/a" and given[:3] == [EXPERIMENT, "TEXT", COMPLETIONS]
  assert [call[0] for call in calls] == ["load_run", "plot", "generator", "complete", "page"]
  assert calls[2][3]["sampling"].temperature == 0.9
  assert calls[3][1] == ["x", "y"] and calls[3][2]["num_samples"] == 2
  assert (tmp_path / "runs" / "a" / "report.html").read_text() == "a page"
  rows = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
  assert "runs/a: 1,234 validation tokens after 7 steps" in rows
  assert "bits per byte, step 0 (9 tokens) 8.000" in rows and "bits per byte, step 7 2.500" in rows
  assert "tokens/s, median 10" in rows and "bits per byte, gzip -9 1.500" in rows
  calls.clear()
  assert cli.main(["report", "--model_dir=runs/a", "--num_samples=0"]) == 0
  assert [call[0] for call in calls] == ["load_run", "plot", "page"] and list(calls[-1][4:6]) == [[], ""]


def test_report_shows_any_directory_and_figures_that_are_not_finite(capsys, monkeypatch, tmp_path):
  """Brackets are no markup; JSON has null for what is not finite."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a[b] [" / "c]").mkdir(parents=True)
  monkeypatch.setitem(REACHED, "first", REACHED["first"] | {"bits_per_byte": None})
  assert cli.main(["report", "--model_dir=a[b] [/c]", "--num_samples=0"]) == 0
  out = capsys.readouterr().out
  assert "a[b] [/c]: 1,234 validation" in out and "--model_dir='a[b] [/c]'" in out and "not finite" in out


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
  assert cli.main(["generate", "--model_dir=runs/a", "--prompt=a"]) == 0, "is always by itself"


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
    ("plan --topology=v5e:2x2 --search --decode", ["--decode", "not allowed with", "--search"]),
    ("plan --topology=v5e:2x2 --batch_size=4", ["--batch_size", "--decode"]),
    ("plan --topology=v5e:2x2 --window=4", ["--window", "--decode"]),
    ("convert --from=torch --input=a --model_dir=b", ["--from", "'torch'", "transfo_xl", "huggingface", "safetensors"]),
    ("generate --model_dir=a --prompt=b --step=x", ["--step", "'x'", "whole number"]),
    ("generate --model_dir=a", ["--prompt", "--prompt_file", "required"]),
    ("generate --model_dir=a --prompt=b --prompt_file=c", ["--prompt_file", "not allowed with", "--prompt"]),
    ("generate --model_dir=a --prompt=b --num_samples=0", ["--num_samples", "'0'", "at least 1"]),
    ("generate --model_dir=a --prompt=b --stop=", ["--stop", "empty"]),
    ("annotate --model_dir=a --input=b --output=c --labels=a,,b", ["--labels", "'a,,b'", "yes,no,maybe"]),
    ("annotate --model_dir=a --input=b --output=c --labels=a,a", ["--labels", "differ"]),
    *((f"generate --model_dir=a --prompt=b --seed={seed}", ["--seed", f"'{seed}'", "from 0 to 4294967295"])
      for seed in (-1, 2**32, 2**63, 2**64, "nan", "1e3")),
])
def test_a_wrong_command_is_one_line_and_status_2(calls, capsys, command, words):
  status = cli.main(command.split())
  captured = capsys.readouterr()
  assert status == 2 and captured.out == "" and not calls
  assert captured.err.count("\n") == 1 and all(word in captured.err for word in words), captured.err


def flags_of_every_command():
  """(command, flag, its argparse action, other flags that it needs) of each flag that has a value."""
  for command, parser in cli._parsers()[1].items():
    alternatives = [action for group in parser._mutually_exclusive_groups for action in group._group_actions
                    if action.nargs != 0]
    for action in parser._actions:
      needed = [other for other in parser._actions if other.required and other is not action]
      needed += [] if action in alternatives else alternatives[:1]
      if action.nargs != 0:
        yield (command, action.option_strings[-1], action,
               [f"{other.option_strings[-1]}={(other.choices or ['9'])[0]}" for other in needed])


EVERY_FLAG = list(flags_of_every_command())
NUMBERS = [flag for flag in EVERY_FLAG if getattr(flag[2].type, "__qualname__", "").startswith("_number")]
named = lambda value: value if isinstance(value, str) else ""


@pytest.mark.parametrize("command, flag, action, needed", [
    flag for flag in EVERY_FLAG if flag[1] != "--prompt"], ids=named)  # A prompt may be empty.
def test_an_empty_value_is_refused(calls, capsys, command, flag, action, needed):
  """A variable that is not set would otherwise mean the current directory, or nothing."""
  assert cli.main([command, *needed, f"{flag}="]) == 2 and not calls
  message = capsys.readouterr().err
  assert message.count("\n") == 1 and flag in message and ("empty" in message or "''" in message), message


@pytest.mark.parametrize("command, flag, action, needed", NUMBERS, ids=named)
def test_no_number_and_one_out_of_range_are_refused(calls, capsys, command, flag, action, needed):
  assert len(NUMBERS) > 15
  for value in ("nan", "inf", "-inf", "1e400", "-1", "9" * 5000, "x", "--1"):
    assert cli.main([command, *needed, f"{flag}={value}"]) == 2 and not calls
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"{flag}: " in message and "number" in message, message


@pytest.mark.parametrize("flag", ["--model_dir", "--input", "--output", "--gin_file", "--prompt_file"])
def test_a_home_directory_that_is_not_known(monkeypatch, capsys, flag):
  """An unknown user without HOME, as in some containers: no folder with the name ~ is made."""
  import pwd

  def unknown(_):
    raise KeyError("no such user")
  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.setattr(pwd, "getpwuid", unknown)
  monkeypatch.setattr(pwd, "getpwnam", unknown)
  command, _, _, needed = next(one for one in EVERY_FLAG if one[1] == flag)
  for path in ("~", "~/x", "~nobody-here/x"):
    assert cli.main([command, *needed, f"{flag}={path}"]) == 2
    assert f"{flag}: {path!r}: the system knows no such home directory" in capsys.readouterr().err
  monkeypatch.setenv("HOME", "/home/me")
  assert vars(cli._parse([command, *needed, f"{flag}=~/x"]))[flag[2:]] in (
      "/home/me/x", ["/home/me/x"])


def test_text_that_the_terminal_s_encoding_could_not_decode():
  """The bytes of UTF-8 are read as what they are; others are refused in one line."""
  parse = lambda *argv: cli._parse(["generate", "--model_dir=a", *argv])
  undecoded = "prömpt €".encode().decode("ascii", "surrogateescape")
  with_utf_8 = parse(f"--prompt={undecoded}", f"--stop={undecoded}", "--prompt=prömpt")
  assert (with_utf_8.prompt, with_utf_8.stop) == (["prömpt €", "prömpt"], ["prömpt €"])
  latin = "prömpt".encode("latin-1").decode("utf-8", "surrogateescape")
  for flag in ("--prompt", "--stop", "--gin.A"):
    with pytest.raises(CommandError, match="is not UTF-8: set the terminal's encoding to UTF-8"):
      cli._parse(["eval", "--model_dir=a", f"{flag}={latin}"] if "gin" in flag else [
          "generate", "--model_dir=a", "--prompt=b", f"{flag}={latin}"])
