"""The commands that pages, gin files, shipped tasks and examples show."""

import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(page for folder in (".", "docs", "benchmarks", "examples", "notebooks")
               for page in (ROOT / folder).glob("*.md"))
# Gin files and scripts have commands in comments and docstrings.
FILES = [*PAGES, *sorted((ROOT / "gin_configs").rglob("*.gin")), *sorted((ROOT / "tasks").glob("*.py")),
         *sorted((ROOT / "examples").glob("*.py"))]
PROGRAMS = ("gpt4x", "make", "python", "pip")
# What starts a command on other machines or gives it its input, or says that it is one.
_BEFORE = r"^(> |First: |[^|]* \| |srun |mpirun -n \d+ |gcloud .*? --command=\"(.*? && )*)"


@dataclasses.dataclass(frozen=True)
class Command:
  """A command as a reader would give it to a shell."""

  text: str
  inline: bool = False  # Within a sentence, where it may be cut short to what the sentence is about.

  @property
  def program(self) -> str:
    return self.text.split()[0]

  @property
  def arguments(self) -> list[str]:
    return shlex.split(self.text, comments=True)[1:]


def commands(path: pathlib.Path) -> list[Command]:
  """The commands that a file shows, as often as it shows them."""
  text = path.read_text()
  blocks, prose = text, ""
  if path.suffix == ".md":
    fenced = r"^```\w*\n(.*?)^```"
    blocks, prose = "\n".join(re.findall(fenced, text, re.MULTILINE | re.DOTALL)), re.sub(
        fenced, "", text, flags=re.MULTILINE | re.DOTALL)
  lines = "\n".join(line.removeprefix("#").strip() for line in blocks.splitlines()).replace("\\\n", " ").splitlines()
  found = []
  for line in lines:
    rest = re.sub(_BEFORE, "", line)
    if line.startswith("gcloud "):
      rest = rest.removesuffix('"')
    found.append(Command(re.sub(r" > \S+$", "", rest.split(" #")[0].strip())))
  found += [Command(f"gpt4x {words}".replace(",", ""))
            for words in re.findall(r"command: \[gpt4x, (.*?)\]", " ".join(blocks.split()))]  # YAML.
  found += [Command(" ".join(span.split()), inline=True) for span in re.findall(r"`([^`]+)`", prose)]
  # `...` and brackets stand for what the reader fills in; a bare `gpt4x eval` is a name.
  return [one for one in found if one.text.startswith(tuple(f"{program} " for program in PROGRAMS))
          and not re.search(r"\.\.\.|\[\w+ ", one.text) and not (one.inline and re.fullmatch(r"gpt4x \w+", one.text))]


def every_command() -> dict[str, Command]:
  """All commands by their text; of several that are the same, the one that stands by itself."""
  found: dict[str, Command] = {}
  for path in FILES:
    for command in commands(path):
      if command.text not in found or not command.inline:
        found[command.text] = command
  return found
