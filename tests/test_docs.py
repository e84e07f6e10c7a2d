"""What the pages say of files and of the command line is so."""

import pathlib
import re
import shlex

import pytest

from gpt4x import cli

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = (".", "docs", "benchmarks", "examples", "notebooks")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
# Gin files and scripts have commands in comments and docstrings.
SHOWN = [*PAGES, *sorted((ROOT / "gin_configs").rglob("*.gin")), *sorted((ROOT / "tasks").glob("*.py")),
         *sorted((ROOT / "examples").glob("*.py"))]
name = lambda path: path.relative_to(ROOT).as_posix()


def commands(path: pathlib.Path) -> list[list[str]]:
  """The arguments of each `gpt4x` that starts a command shown in a page, a gin file's comment or a docstring."""
  text = path.read_text()
  if path.suffix == ".md":
    text = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
  lines = [line.removeprefix("#").strip() for line in text.splitlines()]
  joined = "\n".join(lines).replace("\\\n", " ").splitlines()
  joined = [re.sub(r"^(> |srun |mpirun -n \d+ )", "", line) for line in joined]
  words = [shlex.split(line, comments=True) for line in joined if line.startswith("gpt4x ")]
  # `...` stands for what was said before.
  return [arguments for _, *arguments in words if "..." not in arguments]


def yaml_commands(path: pathlib.Path) -> list[list[str]]:
  found = re.findall(r"command: \[gpt4x, (.*?)\]", path.read_text(), re.DOTALL)
  return [[word.strip() for word in words.split(",")] for words in found]


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


@pytest.mark.parametrize("path", SHOWN, ids=name)
def test_commands_are_commands(path):
  for arguments in [*shown(path), *yaml_commands(path)]:
    parsed = cli._parse(arguments)
    for file in getattr(parsed, "gin_file", []):
      if not file.startswith(("runs/", "EXPERIMENT")):  # A run's own, or a placeholder.
        assert (ROOT / "gin_configs" / file).exists(), f"{name(path)}: {file}"


def shown(path: pathlib.Path) -> list[list[str]]:
  text = path.read_text()
  nested = re.findall(r'--command="[^"]*?&& \\?\n?\s*gpt4x ([^"]*)"', text)  # What another machine's shell is told.
  return [*commands(path), *map(shlex.split, nested)]


def test_commands_are_found():
  """In every page that shows any, and not by chance none."""
  count = {page.name: len(shown(page)) + len(yaml_commands(page)) for page in PAGES}
  assert count["README.md"] == 4 and count["pods-and-schedulers.md"] == 6 and count["weights.md"] == 6


def test_every_page_is_named_in_the_readme():
  readme = (ROOT / "README.md").read_text()
  assert len(readme.splitlines()) <= 130
  for page in (ROOT / "docs").iterdir():
    assert f"docs/{page.name}" in readme, page.name
    assert page.suffix != ".md" or len(page.read_text().splitlines()) <= 120


def test_the_python_of_a_page_runs():
  blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
  exec(compile("".join(blocks), "docs/python.md", "exec"), {})
