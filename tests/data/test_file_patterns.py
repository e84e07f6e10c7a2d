"""Patterns match what `glob` matches where there are no links, and end where there are."""

import glob
import os
import random

import pytest

from gpt4x.data import file_patterns
from gpt4x.data.local_text import LocalText, LocalTextSource
from gpt4x.errors import UserError

PATTERNS = ["**/*.txt", "**", "**/*", "a/**/*.txt", "a/**", "*/**/b/*", "**/b/**/*.txt", "a/b.txt", "*.txt", "**/.h/*",
            "[ab]/**/*.t?t", "**.txt", "**/**/*.txt", "a//**//*.txt", "./**/*.md", "nothing/**/*.txt", "**/b"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def write(path, text="text"):
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  with open(path, "w", encoding="utf-8") as file:
    file.write(text)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("base", ["", "absolute"])
def test_as_glob_has_it(pattern, base, tmp_path):
  chance = random.Random(0)
  for _ in range(60):
    folders = chance.choices(["a", "b", "c", ".h", "[x]"], k=chance.randrange(4))
    write("/".join([*folders, f"{chance.choice(['b', '.b', 'd'])}.{chance.choice(['txt', 'md'])}"]))
  pattern = f"{glob.escape(str(tmp_path))}/{pattern}" if base else pattern
  expected = {os.path.realpath(path) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
  found = file_patterns.matches(pattern)
  assert {os.path.realpath(path) for path in found} == expected
  assert found == sorted(set(found)) and len(found) == len(expected)


def test_circles_end_and_each_real_file_comes_once():
  write("c/one.txt", "one")
  write("c/d/two.txt", "two")
  os.symlink(".", "c/self")
  os.symlink("..", "c/d/up")
  os.symlink("loop", "c/loop")  # Leads nowhere at all.
  os.symlink("gone", "c/broken.txt")
  os.symlink("one.txt", "c/again.txt")
  for i in range(40):  # Two ways at each of 40 turns: a walk along all of them would never end.
    os.makedirs(f"maze/{i}", exist_ok=True)
    for link in "xy":
      os.symlink(f"../{i + 1}", f"maze/{i}/{link}")
  write("maze/40/three.txt", "three")
  (train, _), _ = LocalText(["c/**/*.txt", "maze/0/**/*.txt", "**/three.txt"]).find(), None
  assert len(train) == 3
  texts = {text for _, text in LocalTextSource(LocalText("**/*.txt", "c/one.txt")).documents("train")}
  assert texts == {"two", "three"}


def test_a_link_beside_its_folder_is_a_way_to_names_behind_it():
  write("d/sub/one.txt")
  os.symlink("d", "raw")
  assert file_patterns.matches("**/raw/**/*.txt") == ["raw/sub/one.txt"]
  assert file_patterns.matches("**/raw/sub/*.txt") == ["raw/sub/one.txt"]


def test_what_cannot_be_read_is_not_called_missing(monkeypatch, capsys):
  write("open/a.txt")
  write("secret/deep/b.txt")
  scan = os.scandir

  def scandir(path="."):
    if "secret" in os.fspath(path):
      raise PermissionError(13, "Permission denied", path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", scandir)
  for pattern in ("secret/*.txt", "secret/**/*.txt"):
    with pytest.raises(UserError, match="folder secret/? cannot be read .Permission denied.: change its permissions"):
      LocalText(pattern).find()
  with pytest.raises(UserError, match="matches no file"):
    LocalText("open/*.md").find()
  capsys.readouterr()
  assert file_patterns.matches("**/*.txt") == ["open/a.txt"]
  assert "warning: left out folder secret, which cannot be read (Permission denied)" in capsys.readouterr().err
