"""Whole preparations as a user starts them: articles in twelve files, and all kinds of steps."""

import pathlib
import random
import sys

from benchmarks.preparation import texts

STEPS = """Preparation.steps = [
    @RepairEncoding(), @Language(), @GopherRepetition(), @GopherQuality(), @C4(), @FineWeb(), @NearDuplicates(),
    @RepeatedLines(), @RepeatedSubstrings(), @PersonalData()]
Preparation.shard_bytes = 100000
C4.terminal_punctuation = False
"""


def write(source: str, folder: pathlib.Path, count: int = 300, others: int = 0) -> int:
  """So many articles, a third of them twice with a few words changed, in twelve files; returns how many there are.

  `others` says how many there are, of each article, that have three words in ten from elsewhere.
  """
  draw, documents = random.Random(0), texts.articles(source, count)
  documents += [texts.changed(text, 0.3, draw) for text in documents for _ in range(others)]
  documents += [texts.changed(text, 0.01, draw) for text in documents[::3]]
  draw.shuffle(documents)
  (folder / "input").mkdir()
  for number in range(12):
    texts.write(folder / "input" / f"{number:02}.jsonl", documents[number::12])
  (folder / "steps.gin").write_text(STEPS)
  return len(documents)


def command(folder: pathlib.Path, output: str, count: int) -> list[str]:
  return [sys.executable, "-m", "gpt4x.cli", "prepare", f"--gin_file={folder / 'steps.gin'}",
          f"--input={folder / 'input' / '*.jsonl'}", f"--output={folder / output}", f"--workers={count}"]


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
