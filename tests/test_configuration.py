"""Gin files: where they are found, what a wrong one is answered, and that the saved text says all of it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import string
import subprocess
import sys
from typing import Literal, Protocol

import gin
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from gpt4x import configuration, run_directory
from gpt4x.configuration import files as gin_files
from gpt4x.configuration import reader, trust
from gpt4x.errors import CommandError, require
from tests.buckets import put

MODULES = configuration.MODULES + configuration.TRAINING_MODULES


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ToyModel:
  num_layers: int
  width: int = 8
  extra: object = None


@gin.configurable(denylist=["model_dir"])
def toy_loop(model_dir=None, model=None, steps=1, task=None):
  return model_dir, model, steps, task


@gin.configurable
def toy_open(**anything):
  return anything


RUN = """
toy_loop.model = %MODEL
toy_loop.steps = %TRAIN_STEPS
toy_loop.task = %MIXTURE_OR_TASK_NAME
"""
EXPERIMENT = """
include 'models/tiny.gin'
MIXTURE_OR_TASK_NAME = 'toy'
TRAIN_STEPS = 20
"""
TINY = """
MODEL = @ToyModel()
ToyModel:
  num_layers = 2
  width = 16
"""


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  """A current directory and a shipped directory in which `write(path, text)` makes files."""
  here, shipped = tmp_path / "here", tmp_path / "shipped"

  def write(path: str, text: str):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)

  write("shipped/runs/run.gin", RUN)
  write("shipped/models/tiny.gin", TINY)
  write("here/mine.gin", EXPERIMENT)
  monkeypatch.chdir(here)
  monkeypatch.syspath_prepend(str(here))
  monkeypatch.setattr(gin_files, "SHIPPED", shipped)
  monkeypatch.setattr(configuration, "MODULES", ())
  monkeypatch.setattr(configuration, "TRAINING_MODULES", ())
  monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
  return write


def load(*bindings: str, **kwargs):
  configuration.load(("runs/run.gin", "mine.gin"), bindings, **kwargs)


def refusal(*bindings: str) -> str:
  with pytest.raises(CommandError) as error:
    load(*bindings)
  assert len(str(error.value).splitlines()) == 1
  return str(error.value)


def test_files_come_from_here_and_from_the_shipped_ones_and_flags_come_last(files):
  load("TRAIN_STEPS=30", "ToyModel.width=4")
  assert toy_loop() == (None, ToyModel(num_layers=2, width=4), 30, "toy")
  files("here/models/tiny.gin", TINY.replace("16", "32"))
  load()
  assert toy_loop()[1].width == 32, "a file of the same name here goes before the shipped one"


def test_what_every_scope_replaces_needs_no_value(files):
  """A model of two parts, each with a width of its own, has no use for the width of all."""
  parts = "include 'models/tiny.gin'\nToyModel.width = %WIDTH\nTRAIN_STEPS = 1\nMIXTURE_OR_TASK_NAME = 'a'\n"
  parts += "MODEL = {'a': @a/ToyModel(), 'b': @b/ToyModel()}\na/ToyModel.width = 3\n"
  files("here/mine.gin", parts + "b/ToyModel.width = 5")
  load()
  assert [one.width for one in toy_loop()[1].values()] == [3, 5]
  files("here/mine.gin", parts + "b/ToyModel.num_layers = 5")
  assert "WIDTH is not set" in refusal()


def test_loading_replaces_what_was_there():
  load("ToyModel.width=4")
  load()
  assert toy_loop()[1].width == 16


def test_an_absolute_path_is_found(tmp_path, files):
  files("elsewhere/a.gin", "TRAIN_STEPS = 7")
  configuration.load(("runs/run.gin", "mine.gin", str(tmp_path / "elsewhere/a.gin")))
  assert toy_loop()[2] == 7


@pytest.mark.parametrize("text, place, words", [
    ("TRAIN_STPES = 3", "mine.gin:1: ", ["TRAIN_STPES", "did you mean TRAIN_STEPS?"]),
    ("\nToyModle.width = 3", "mine.gin:2: ", ["ToyModle", "did you mean ToyModel?"]),
    ("# A remark.\nToyModel.widht = 3", "mine.gin:2: ", ["ToyModel", "widht", "did you mean width?"]),
    ("MODEL = @ToyModl()", "mine.gin:1: ", ["ToyModl", "did you mean ToyModel?"]),
    ("MODEL = [\n  1,\n  @ToyModl()]", "mine.gin:3: ", ["ToyModl", "did you mean ToyModel?"]),
    ("ToyModel:\n  width = 3\n  widht = 4", "mine.gin:3: ", ["widht", "width"]),
    ("Toymodel:\n  width = 3", "mine.gin:1: ", ["Toymodel", "ToyModel"]),
    ("toy_loop.model_dir = 'a'", "mine.gin:1: ", ["toy_loop", "model_dir"]),
    ("include 'models/tinny.gin'", "mine.gin:1: ", ["models/tinny.gin", "did you mean models/tiny.gin?"]),
    ("include 'mine.gin'", "mine.gin ", ["includes itself"]),
    ("import no_such_module", "mine.gin:1: ", ["no_such_module"]),
    ("from __gin__ import dynamic_registration", "mine.gin:1: ", ["dynamic registration"]),
    ("\nTRAIN_STEPS = ten", "mine.gin:2: ", ["ten is not a value", "'ten'"]),
    ("TRAIN_STEPS 10", "mine.gin:1: ", ["'='"]),
    # From Python 3.12 on, the line of the bracket; before, that where the file ends.
    ("TRAIN_STEPS = [1,\n", f"mine.gin:{1 if sys.version_info >= (3, 12) else 2}: ", ["close"]),
    ("ToyModel:\n  width = 3\n num_layers = 4", "mine.gin:3: ", ["indent"]),
    ("include 'models/tiny.gin'\nMIXTURE_OR_TASK_NAME = 'toy'", "run.gin:3: ", ["TRAIN_STEPS", "not set"]),
    ("include 'models/tiny.gin'\nTRAIN_STEPS = %TRAIN_STEP", "mine.gin:2: ", ["TRAIN_STEP", "mean TRAIN_STEPS?"]),
    ("TRAIN_STEPS = %gin.REQUIRED", "run.gin:2: ", ["MODEL", "TRAIN_STEPS", "MIXTURE_OR_TASK_NAME", "are not set"]),
    (EXPERIMENT + "ToyModel.extra = {'a': %gin.REQUIRED}", "mine.gin:5: ", ["ToyModel.extra", "is not set"]),
    ("MODEL = @ToyModel()\nTRAIN_STEPS = 1\nMIXTURE_OR_TASK_NAME = 'a'", "mine.gin:1: ", ["ToyModel", "num_layers"]),
])
def test_a_wrong_file_is_answered_with_the_place_and_the_nearest_name(files, text, place, words):
  files("here/mine.gin", text)
  message = refusal()
  assert place in message and all(word in message for word in words), message


@pytest.mark.parametrize("binding, words", [
    ("TRAIN_STEP=10", ["did you mean TRAIN_STEPS?"]),
    ("ToyModel.num_layer=10", ["ToyModel", "num_layer", "did you mean num_layers?"]),
    ("ToyModels.num_layers=10", ["did you mean ToyModel?"]),
    ("TRAIN_STEPS=", ["--gin.NAME=VALUE"]),
    ("3x%=1", ["--gin.NAME=VALUE"]),
    ("MIXTURE_OR_TASK_NAME=stdlib_bytes", ["stdlib_bytes", "--gin.MIXTURE_OR_TASK_NAME=\"'stdlib_bytes'\""]),
    ("MIXTURE_OR_TASK_NAME=/data/*.txt", ["\"'/data/*.txt'\""]),
    ("TRAIN_STEPS=true", ["true"]),
])
def test_a_wrong_flag_is_repeated_with_the_nearest_name(binding, words):
  message = refusal(binding)
  assert message.startswith(f"--gin.{binding}: ") and all(word in message for word in words), message


def test_a_missing_file_names_the_places_and_the_nearest_shipped_one(tmp_path):
  with pytest.raises(CommandError, match="tinny.gin not found") as error:
    configuration.load(("tinny.gin",))
  assert str(tmp_path / "here") in str(error.value) and str(tmp_path / "shipped") in str(error.value)
  assert "did you mean models/tiny.gin?" in str(error.value)


def test_a_gin_file_that_is_not_text(tmp_path):
  (tmp_path / "here" / "mine.gin").write_bytes(b"# \xff\n")
  assert "mine.gin cannot be read" in refusal()


def test_a_name_of_several_configurables(files):
  files("here/twins.py", "import gin\nfor m in ('one', 'two'):\n  gin.external_configurable(dict, 'twin', module=m)\n")
  files("here/mine.gin", "import twins\ntwin.a = 1")
  assert "one.twin, two.twin" in refusal()


def test_macros_of_overridden_bindings_and_open_parameters_are_fine(files):
  files("here/mine.gin", EXPERIMENT + "WIDTH = 4\nToyModel.width = %WIDTH\nToyModel.width = 5\ntoy_open.any_name = 1")
  load()
  configuration.load(text=configuration.config_text())
  assert toy_loop()[1].width == 5 and toy_open() == {"any_name": 1}


def test_a_part_of_an_experiment_may_leave_macros_unset(files):
  files("here/mine.gin", "ToyModel.width = 3")
  load(partial=True)
  with pytest.raises(CommandError):
    load("TRAIN_STEP=1", partial=True)


def test_the_saved_text_alone_restores_the_configuration_in_another_process(files, tmp_path):
  files("here/my_tasks.py", "import gin\n@gin.configurable\ndef my_task(name, parts=()):\n  return name, parts\n")
  files("here/mine.gin", "import my_tasks\ninclude 'other.gin'\nmy_task.parts = [%PART, @other/my_task(), -1e-4]")
  files("here/other.gin", f"PART = {{'targets': 256, 'text': {'word ' * 40!r}}}\n"
        "my_task.name = 'one'\nother/my_task:\n  name = 'two'\n  parts = None")
  configuration.load(("mine.gin",), ["PART={'targets': 512, 'inputs': %gin.REQUIRED}", "PART={'targets': 128}"])
  import my_tasks
  (tmp_path / "here" / "mine.gin").unlink()
  (tmp_path / "here" / "other.gin").unlink()
  trust.allow(["my_tasks"])
  program = ("import sys; sys.path.append('.')\nfrom gpt4x import configuration as c\n"
             "c.MODULES = c.TRAINING_MODULES = (); c.load(text=sys.stdin.read())\n"
             "import my_tasks; print(my_tasks.my_task()); print(c.config_text())")
  text = configuration.config_text()
  result = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True)
  assert result.stdout == f"{my_tasks.my_task()}\n{text}\n", result.stderr
  assert my_tasks.my_task() == ("one", [{"targets": 128}, ("two", None), -1e-4])


def test_every_module_with_configurables_is_imported_before_parsing(repository):
  modules = {".".join(path.relative_to(repository).with_suffix("").parts)
             for path in (repository / "gpt4x").rglob("*.py") if "\n@gin." in path.read_text()}
  prepares = {module for module in modules if module.startswith("gpt4x.preparation.")}
  assert modules - prepares <= set(MODULES)
  code = "import sys; import gpt4x.preparation.steps; print(*sys.modules)"
  imported = subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True)
  assert prepares <= set(imported.stdout.split())
  assert not {"tensorflow", "jax", "seqio"} & set(imported.stdout.split())


EARLIER = "{}toy_loop.experiment = @toy_open()\nx/toy_loop.experiment = 3\nToyModel.depth = 7\nx/ToyModel.depth = 8\n"


def test_the_saved_text_of_an_earlier_version(monkeypatch, files, tmp_path):
  """What is gone is dropped and what was renamed is bound, in every scope, in saved text alone."""
  monkeypatch.setattr(reader, "EARLIER", {"toy_loop.experiment": None, "ToyModel.depth": "ToyModel.num_layers"})
  (tmp_path / run_directory.CONFIG).write_text(EARLIER.format("STEPS = 4\ntoy_loop.steps = %STEPS\n"))
  configuration.load_run(str(tmp_path))
  assert ToyModel() == ToyModel(num_layers=7) and toy_loop()[2] == 4
  with gin.config_scope("x"):
    assert ToyModel() == ToyModel(num_layers=8)
  assert "experiment" not in configuration.config_text() and "depth" not in configuration.config_text()
  for line in EARLIER.format("").splitlines():
    files("here/mine.gin", line)
    with pytest.raises(CommandError, match="mine.gin:1: .* has no parameter"):
      configuration.load(("mine.gin",))


def loaded_elsewhere(text: str, before: str = "") -> str:
  """The configuration of a saved text, in a process whose configurables are `before`'s alone."""
  program = (f"import sys, types, gin; sys.path.append('.')\n{before}\n"
             "from gpt4x import configuration as c; c.MODULES = c.TRAINING_MODULES = ()\n"
             "c.load(text=sys.stdin.read()); print(c.config_text())")
  return subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True, check=True).stdout


def test_what_earlier_versions_bound():
  stand_ins = ("for name in ('evaluate', 'generate', 'held_out_text', 'LanguageModel'):\n"
               "  gin.external_configurable(lambda: None, name, module='stand_ins')\n"
               "gin.external_configurable(lambda z_loss: None, 'NextToken', module='stand_ins')")
  saved = "".join(f"{name} = 1\n" for name in (
      "evaluate.experiment", "generate.experiment", "held_out_text.experiment", "LanguageModel.z_loss"))
  assert [line for line in loaded_elsewhere(saved, stand_ins).splitlines() if "= 1" in line] == ["NextToken.z_loss = 1"]


@pytest.mark.parametrize("own, expected", [(None, "gpt4x.tasks"), ("tasks/mine.py", "gpt4x.tasks"),
                                           ("tasks.py", "tasks"), ("tasks/__init__.py", "tasks")])
def test_the_tasks_that_a_saved_text_means(files, own, expected):
  """The shipped ones, unless there is a module of that name: a mere folder is none."""
  if own:
    files(f"here/{own}", "")
  shipped = "sys.modules['gpt4x.tasks'] = types.ModuleType('gpt4x.tasks')"  # Which would take seconds.
  shipped += "\nfrom gpt4x.configuration import trust; trust.allow(['tasks'])" if expected == "tasks" else ""
  assert loaded_elsewhere("import tasks\n", shipped) == f"import {expected}\n\n"


gin_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.text(string.ascii_letters + " '\"\\\n", min_size=90, max_size=200) | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@settings(max_examples=60, deadline=None, database=None)
@given(value=gin_values)
def test_any_value_survives_the_saved_text(value):
  configuration.load(bindings=[f"toy_open.value={value!r}", "toy_open.macro=%M", f"M={[value]!r}"])
  configuration.load(text=configuration.config_text())
  assert toy_open() == {"value": value, "macro": [value]}


def test_a_run_is_restored_from_its_directory_and_changed_by_flags(tmp_path):
  load()
  (tmp_path / run_directory.CONFIG).write_text(configuration.config_text())
  configuration.load_run(str(tmp_path), bindings=["TRAIN_STEPS=50"])
  assert toy_loop() == (None, ToyModel(num_layers=2, width=16), 50, "toy")
  with pytest.raises(CommandError, match="did you mean TRAIN_STEPS"):
    configuration.load_run(str(tmp_path), bindings=["TRAIN_STEP=50"])
  with pytest.raises(CommandError, match="no run in .*nowhere"):
    configuration.load_run(str(tmp_path / "nowhere"))


@gin.configurable
def toy_optimizer(rate: float) -> Callable[[int], float]:
  return lambda step: rate


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Typed:
  """A parameter of each kind of annotation."""

  steps: int = 1
  rate: float | Callable[[int], float] = 0.1
  name: str | None = None
  flag: bool = False
  kind: Literal["a", "b"] = "a"
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  sizes: tuple[int, ...] = ()
  model: ToyModel | None = None
  files: str | Sequence[str] = ()
  made: Callable[[int], float] | None = None


@pytest.mark.parametrize("binding, words", [
    ("Typed.steps=7.5", "steps = 7.5 must be a whole number"),
    ("Typed.steps=True", "a whole number"),
    ("Typed.steps=None", "a whole number"),
    ("Typed.rate='0.1'", "a finite number or a function"),
    ("Typed.rate=1e999", "a finite number"),
    ("Typed.rate=@toy_optimizer", "must be called: write @toy_optimizer()"),
    ("Typed.name=3", "a string in quotes or None"),
    ("Typed.flag=0", "True or False"),
    ("Typed.kind='c'", "'a' or 'b'"),
    ("Typed.lengths=['targets']", "a mapping"),
    ("Typed.lengths={'targets': '64'}", "a mapping such as {'a': 1}, from a string in quotes to a whole number"),
    ("Typed.sizes=3", "a list of a whole number each"),
    ("Typed.sizes=[1, 'x']", "a list of a whole number each"),
    ("Typed.sizes=[%TRAIN_STEPS, %MIXTURE_OR_TASK_NAME]", "a list of a whole number each"),
    ("Typed.model=@ToyModel", "must be called: write @ToyModel()"),
    ("toy_loop.model=@Typed()", None),
    ("Typed.model=@Picky()", "must be @ToyModel() or None"),
    ("Typed.model=@toy_optimizer()", "must be @ToyModel() or None"),
    ("Typed.files=[3]", "a string in quotes or a list of a string in quotes each"),
    ("Typed.made=1.0", "a function"),
    ("Typed.made=@ToyModel()", "a function"),
    ("deep/Typed.steps=2", "nothing enters the scope deep"),
    ("TRAIN_STEPS=%TRAIN_STEPS", "%TRAIN_STEPS -> %TRAIN_STEPS refers to itself"),
    ("MODEL=@Typed()", None),
    ("ToyModel.extra=@ToyModel()", "@ToyModel() -> @ToyModel() refers to itself"),
    ("ToyModel.width=1" + "0" * 5000, "not a gin value"),
    ("ToyModel.extra=" + "[" * 60 + "]" * 60, "ToyModel.extra is nested more than 50 deep"),
    ("ToyModel.extra=" + "[" * 5000 + "]" * 5000, ""),
])
def test_a_value_of_another_kind(binding, words):
  bindings = [binding, "toy_optimizer.rate=1.0", "Picky.width=1"]
  if words is None:
    load(*bindings)
    return
  message = refusal(*bindings)
  assert message.startswith(f"--gin.{binding[:150]}") and words in message, message


class Shaped(Protocol):
  def shape(self) -> int: ...


@gin.configurable
class Square:
  def shape(self) -> int:
    return 4


@gin.configurable
def toy_protocol(shaped: Shaped):
  return shaped


def test_a_protocol_takes_what_has_its_methods():
  load("toy_protocol.shaped=@Square()")
  assert toy_protocol().shape() == 4
  for other in ("@Typed()", "3", "@Square"):
    assert "must be" in refusal(f"toy_protocol.shaped={other}")


@pytest.mark.parametrize("binding", [
    "Typed.steps=7", "Typed.rate=7", "Typed.rate=@toy_optimizer()", "Typed.name=None", "Typed.name='x'",
    "Typed.kind='b'", "Typed.lengths={'targets': %TRAIN_STEPS}", "Typed.sizes=[]", "Typed.sizes=(1, 2)",
    "Typed.model=@ToyModel()", "Typed.model=%MODEL", "Typed.model=@other/ToyModel()", "Typed.files='x'",
    "Typed.files=['x']", "Typed.made=@toy_optimizer()", "Typed.made=@toy_open", "ToyModel.extra=@Typed()"])
def test_a_value_of_its_kind(binding):
  load(binding, *(["toy_optimizer.rate=1.0"] if "toy_optimizer" in binding else []))


def test_the_value_of_a_macro_is_told_where_the_macro_stands(files):
  files("here/mine.gin", EXPERIMENT + "STEPS = '7'\nTyped.steps = %AGAIN\nAGAIN = %STEPS")
  assert refusal().startswith("mine.gin:5: Typed.steps = '7' must be a whole number")


def test_what_another_has_taken_the_place_of_may_lack_arguments(files):
  """A model that nothing refers to any more, until it is built."""
  files("here/mine.gin", EXPERIMENT + "ToyModel.extra = @Picky()")
  assert refusal().startswith("mine.gin:5: Picky needs a value for width")
  load("MODEL=@toy_open()")
  with pytest.raises(CommandError, match="^mine.gin:5: Picky needs a value for width"):
    configuration.build(ToyModel)


def test_a_range_that_the_constructor_refuses_is_told_with_its_place(files):
  files("here/mine.gin", "WIDTH = 0\nPicky.width = %WIDTH\n")
  configuration.load(("mine.gin",))
  with pytest.raises(CommandError, match=r"^mine.gin:1: Picky.width = 0 must be at least 1$"):
    configuration.build(Picky)
  configuration.load()
  with pytest.raises(CommandError, match=r"^Picky.width is not set: .*--gin.Picky.width=VALUE"):
    configuration.build(Picky)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Picky:
  width: int

  def __post_init__(self):
    require(self, "at least 1", lambda width: width >= 1, "width")


@gin.configurable
def singleton(value: float) -> float:
  return value


def test_a_name_that_gin_has_too():
  load("toy_loop.steps=@singleton()", "singleton.value=2.5")
  assert toy_loop()[2] == 2.5
  configuration.load(text=configuration.config_text())
  assert toy_loop()[2] == 2.5


def test_includes_are_found_beside_the_file_and_below_home(files, tmp_path, monkeypatch):
  files("elsewhere/deep/a.gin", "include 'b.gin'\ninclude 'more/c.gin'")
  files("elsewhere/deep/b.gin", "ToyModel.width = 3")
  files("elsewhere/deep/more/c.gin", "include 'd.gin'")
  files("elsewhere/deep/more/d.gin", "ToyModel.num_layers = 4")
  monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
  configuration.load(("~/deep/a.gin",))
  assert ToyModel() == ToyModel(num_layers=4, width=3)


# Saved text, which may be anybody's.

EVIL = "import pathlib\npathlib.Path('ran').touch()\n"


@pytest.mark.parametrize("layout", ["evil.py", "evil/__init__.py", "evil/deeper.py"])
def test_a_saved_configuration_runs_no_code_that_is_not_trusted(files, tmp_path, layout):
  files(f"here/{layout}", EVIL)
  module = "evil.deeper" if "deeper" in layout else "evil"
  text = f"import {module}\nToyModel.width = 3\n"
  with pytest.raises(CommandError, match=r"config.gin:1: import evil\S* would run .*/evil.* add --trust=evil"):
    configuration.load(text=text, where="config.gin")
  assert not (tmp_path / "here/ran").exists()
  files("somewhere/run/" + run_directory.CONFIG, text)
  with pytest.raises(CommandError, match="--trust=evil"):
    configuration.load_run(str(tmp_path / "somewhere/run"))
  assert not (tmp_path / "here/ran").exists() and module not in sys.modules

  trust.allow([module])
  trust._this_process.clear()  # As in the next process.
  configuration.load(text=text)
  assert (tmp_path / "here/ran").exists()
  for name in [name for name in sys.modules if name.split(".")[0] == "evil"]:
    del sys.modules[name]


def test_trust_is_in_a_file_and_not_in_a_name(files, tmp_path, monkeypatch):
  files("here/evil.py", "")
  trust.allow(["evil"])
  trust._this_process.clear()
  trust.check("evil")
  files("other/evil.py", EVIL)
  monkeypatch.chdir(tmp_path / "other")
  monkeypatch.syspath_prepend(str(tmp_path / "other"))
  with pytest.raises(CommandError, match="other/evil.py"):
    trust.check("evil")
  with pytest.raises(CommandError, match="there is no module nowhere"):
    trust.allow(["nowhere"])


def test_trust_is_remembered_privately_and_never_in_the_current_directory(files, tmp_path, monkeypatch):
  files("here/evil.py", "")
  trust.allow(["evil"])
  place = tmp_path / "home/gpt4x/trusted.json"
  assert place.exists() and place.parent.stat().st_mode & 0o077 == 0
  trust._this_process.clear()
  place.write_text("[3")  # Damaged: nothing is trusted.
  with pytest.raises(CommandError):
    trust.check("evil")
  monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
  files("here/relative/gpt4x/trusted.json", f'{{"evil": ["{tmp_path / "here/evil.py"}"]}}')
  with pytest.raises(CommandError):
    trust.check("evil")


@pytest.mark.parametrize("line, words", [
    ("include '/etc/passwd'", "includes no file"), ("include 'models/tiny.gin'", "includes no file"),
    ("import gpt4x.configuration.nothing", "failed"), ("from __gin__ import dynamic_registration", "dynamic")])
def test_what_a_saved_configuration_may_not_say(line, words):
  with pytest.raises(CommandError, match=words):
    configuration.load(text=f"{line}\nToyModel.width = 3\n")


def test_what_is_not_needed_may_be_missing(files, tmp_path):
  text = ("import no_such_module\nOPTIMIZER = @no_such_optimizer()\nno_such_optimizer.rate = 3\n"
          "no_such_loop.optimizer = %OPTIMIZER\nToyModel.num_layers = 5\ntoy_loop.model = @ToyModel()\n"
          "toy_loop.task = @no_such_task()\n")
  configuration.load(text=text, needed=(ToyModel,))
  assert configuration.build(ToyModel) == ToyModel(5)
  with pytest.raises(CommandError, match="import no_such_module failed.*unknown configurable no_such_task"):
    configuration.load(text=text, needed=("toy_loop",))
  with pytest.raises(CommandError, match="import no_such_module failed"):
    configuration.load(text=text)


@pytest.mark.parametrize("content, words", [
    (b"", "config.gin is empty"), (b"Typed.steps = 3", "Picky.width is not set"), (b"\xff\xfe", "cannot be read"),
    (b"\xef\xbb\xbfPicky.width = 3", None)])
def test_a_saved_file_that_says_nothing(tmp_path, content, words):
  (tmp_path / run_directory.CONFIG).write_bytes(content)
  def read():
    configuration.load_run(str(tmp_path))
    return configuration.build(Picky)
  if words is None:
    assert read() == Picky(3)
  else:
    with pytest.raises(CommandError, match=words):
      read()


def test_a_file_in_a_bucket(gs, files):
  put(f"{gs}/exp/mine.gin", EXPERIMENT + "include 'part.gin'")
  put(f"{gs}/exp/part.gin", "TRAIN_STEPS = 7")
  put(f"{gs}/exp/wrong.gin", "\nTRAIN_STPES = 3")
  configuration.load(("runs/run.gin", f"{gs}/exp/mine.gin"))
  assert toy_loop()[1].width == 16 and toy_loop()[2] == 7
  for name, message in (("wrong.gin", f"{gs}/exp/wrong.gin:2: .*did you mean TRAIN_STEPS"),
                        ("none.gin", f"gin file {gs}/exp/none.gin not found: correct the URL")):
    with pytest.raises(CommandError, match=message):
      configuration.load(("runs/run.gin", "mine.gin", f"{gs}/exp/{name}"))
  put(f"{gs}/exp/mine.gin", "include 'missing.gin'")
  with pytest.raises(CommandError, match=f"gin file missing.gin not found in .*{gs}/exp"):
    configuration.load((f"{gs}/exp/mine.gin",))
