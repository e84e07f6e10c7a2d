"""The recipes of CONTRIBUTING.md work: their code is run as it stands."""

import re
import sys
import types

import pytest

NAMES = ["a seqio task", "a model option", "an objective"]


def recipes(text: str) -> dict[str, str]:
  """The Python of each recipe, its blocks in order; each on the lines that it has in the file, for tracebacks."""
  found = {}
  for section in re.finditer(r"^## Recipe: (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
    code = text.count("\n", 0, section.start(2)) * "\n"
    inside = False
    for line in section[2].splitlines():
      if line.startswith("```"):
        inside, line = line == "```python", ""
      code += f"{line if inside else ''}\n"
    found[section[1]] = code
  return found


@pytest.mark.parametrize("name", NAMES)
def test_recipe(repository, name, monkeypatch):
  path = repository / "CONTRIBUTING.md"
  found = recipes(path.read_text())
  assert list(found) == NAMES and "assert " in found[name]
  module = types.ModuleType(f"recipe_{NAMES.index(name)}")  # Dataclasses look for their module.
  monkeypatch.setitem(sys.modules, module.__name__, module)
  exec(compile(found[name], str(path), "exec"), module.__dict__)
