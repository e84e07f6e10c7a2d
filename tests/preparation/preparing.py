"""A whole preparation in this process, for tests of its steps."""

import json
import pathlib
from typing import Any, NamedTuple

from gpt4x.preparation import engines, pipeline, report, shard_files
from gpt4x.preparation.counts import Counts
from gpt4x.preparation.pipeline import Preparation


class Prepared(NamedTuple):
  """What a preparation wrote: {id: text}, {id: line about what was dropped}, and what was counted."""

  kept: dict[str, str]
  dropped: dict[str, dict[str, Any]]
  counts: Counts


class Here(engines.Engine):
  """An engine of this process, which does the last task of a stage first."""

  def run(self, work, stage, note):
    for index in reversed(range(len(stage.sizes))):
      work.run(stage, index)
      note(index)


def write(folder: pathlib.Path, *files: list[str]) -> str:
  """JSON lines of texts, in files a.jsonl, b.jsonl and so on; returns a glob of them."""
  folder.mkdir(exist_ok=True)
  for number, texts in enumerate(files):
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / f"{chr(ord('a') + number)}.jsonl").write_text("".join(lines))
  return str(folder / "*.jsonl")


def run(pattern: str | list[str], output: pathlib.Path, *steps: Any, engine: Any = None, **more: Any) -> Prepared:
  """Prepares files, with each in a shard of its own."""
  work = Preparation(steps, **{"shard_bytes": 1, **more}).work(
      [pattern] if isinstance(pattern, str) else pattern, str(output))
  if not pipeline.begin(work):
    with engine or Here() as running:
      for stage in work.stages():
        running.run(work, stage, lambda index: None)
    report.write(work, "")
    work.finish()
  return read(output)


def prepared(tmp_path: pathlib.Path, files: list[list[str]], *steps: Any) -> Prepared:
  """Prepares texts, as files of JSON lines."""
  return run(write(tmp_path / "input", *files), tmp_path / "output", *steps)


def read(output: pathlib.Path) -> Prepared:
  lines = lambda pattern: [json.loads(line) for path in sorted(output.glob(pattern))
                           for line in shard_files.unpacked(path).read().splitlines()]
  found = json.loads((output / "report.json").read_text())
  rest = "steps", "statistics", "gin", "media_folder"
  counts = Counts.from_json({name: value for name, value in found.items() if name not in rest})
  return Prepared({one["id"]: one["text"] for one in lines("part-*.jsonl.zst")},
                  {one["id"]: one for one in lines("dropped/part-*")}, counts)
