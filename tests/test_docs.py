"""What the pages say of files and of the command line is so; tests/integration/test_shown_commands.py runs it."""

import ast
import re
import shutil
import subprocess

import pytest

from gpt4x import cli
from tests import shown

ROOT, PAGES = shown.ROOT, shown.PAGES
name = lambda path: path.relative_to(ROOT).as_posix()

# What Python's commands begin with, and where they are run: in a test, or else the reason why in none.
_EXAMPLES = "tests/integration/test_examples.py::test_train_then_fine_tune_and_sample"
_DRAW = "tests/integration/test_examples.py::test_draw"
_TRAINER = "tests/integration/test_examples.py::test_trainer"
_T5X = "tests/interop/test_t5x.py::test_t5x_s_own_command_trains_evaluates_and_infers"
PYTHON = {
    "python examples/draw.py": _DRAW,
    "python examples/train.py": _EXAMPLES,
    "python examples/trainer.py": _TRAINER,
    "python examples/fine_tune.py": _EXAMPLES,
    "python examples/sample.py": _EXAMPLES,
    "python -m benchmarks.gpu": "tests/test_benchmarks.py::test_the_gpu_script_runs_without_what_reads_data",
    "python -m t5x.main --run_mode=train": _T5X,
    "python -m t5x.main --run_mode=eval": _T5X,
    "python -m t5x.main --run_mode=infer": _T5X,
    "python -m benchmarks.fuzz": "tests/interop/test_fuzz.py::test_files_of_weights",
    "python -m benchmarks.campaigns": "a campaign of an hour",
    "python benchmarks/mixture.py": "a measurement of half an hour",
    "python benchmarks/t5x_loop.py": "a measurement that needs upstream t5x",
    "python benchmarks/transfo_xl_parity.py": "a measurement that needs torch and an old transformers",
}


def slug(heading: str) -> str:
  return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
    if re.match(r"\w+:", target):
      continue
    file, _, section = target.partition("#")
    other = page.parent / file if file else page
    assert other.exists(), f"{name(page)} links to {target}"
    if section:
      assert section in map(slug, re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)), target


@pytest.mark.parametrize("path", shown.FILES, ids=name)
def test_commands_are_commands(path):
  for command in shown.commands(path):
    if command.program != "gpt4x":
      continue
    if command.inline:  # May be cut short, but its flags are flags.
      command, *flags = command.arguments
      assert {flag.split("=")[0] for flag in flags} <= set(cli._parsers()[1][command]._option_string_actions)
      continue
    parsed = cli._parse(command.arguments)
    for file in getattr(parsed, "gin_file", []):
      if not file.startswith("runs/"):  # A run's own.
        assert (ROOT / "gin_configs" / file).exists(), f"{name(path)}: {file}"


def test_commands_are_found():
  """In every page that shows any, and not by chance none."""
  count = {page.name: len([one for one in shown.commands(page) if one.program == "gpt4x"]) for page in PAGES}
  assert count["README.md"] == 6 and count["pods-and-schedulers.md"] == 6 and count["weights.md"] == 12


def test_make_knows_its_targets():
  """Those that are shown, each with its variables, and those of its own header; a dry run does all but run."""
  header = re.findall("^# (make \\w+) ", (ROOT / "Makefile").read_text(), re.MULTILINE)
  texts = [one.text for one in shown.every_command().values() if one.program == "make"]
  assert len(header) == 9 and len(texts) >= 7
  for text in {*texts, *header}:
    for variable in re.findall(r"(\w+)=", text):
      assert f"$({variable})" in (ROOT / "Makefile").read_text(), f"{text}: nothing reads {variable}"
    subprocess.run([shutil.which("make"), "-n", *text.split()[1:]], cwd=ROOT, check=True, capture_output=True)


def test_python_s_commands_are_run_somewhere():
  """Each is named with its test, or the reason why there is none; nothing is named that is shown no more."""
  texts = [one.text for one in shown.every_command().values() if one.program == "python"]
  where = {text: [known for known in PYTHON if f"{text} ".startswith(f"{known} ")] for text in texts}
  assert all(where.values()), [text for text, known in where.items() if not known]
  assert {known for one in where.values() for known in one} == set(PYTHON)
  for command, place in PYTHON.items():
    script = re.match(r"python (?:-m )?(\S+)", command)[1]
    assert script == "t5x.main" or (ROOT / f"{script.removesuffix('.py').replace('.', '/')}.py").exists(), command
    path, _, test = place.partition("::")
    if test:
      functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
      assert test in functions, f"{command}: {place}"


def test_extras_are_setup_s():
  texts = [one.text for one in shown.every_command().values() if one.program == "pip"]
  assert texts
  for text in texts:
    for extra in re.findall(r"\[(\w+)\]", text):
      assert f'"{extra}": [' in (ROOT / "setup.py").read_text(), text


def test_every_page_is_named_in_the_readme():
  """And every picture shown on a page."""
  readme = (ROOT / "README.md").read_text()
  assert len(readme.splitlines()) <= 130
  pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
  for page in (ROOT / "docs").iterdir():
    assert f"docs/{page.name}" in readme or (page.suffix != ".md" and f"]({page.name})" in pages), page.name
    assert page.suffix != ".md" or len(page.read_text().splitlines()) <= 120


def test_the_python_of_a_page_runs():
  blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
  exec(compile("".join(blocks), "docs/python.md", "exec"), {})
