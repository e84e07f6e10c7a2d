"""The steps as stages, each a list of tasks that run in any order and anywhere, from files to files.

    pass0    reads a shard of the input, takes it through the rules before the first join, and notes its keys
    match0   compares the keys of all shards, a part of them in each task
    alike0   of near duplicates: compares the features of what has equal keys
    choose0  of near duplicates: which documents stay, in a single task
    pass1    takes a shard through the join and the rules behind it; the last pass writes the output

A task is done once the file by which it ends is there, whole. What is deleted meanwhile is of stages before the last
one that is done, so that the same command goes on after an end at any moment.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import pathlib
import shutil
from typing import Any, Literal, NamedTuple

import numpy as np

from gpt4x import storage
from gpt4x.errors import one_line, UserError
from gpt4x.preparation import counts, output, shard_files, sources
from gpt4x.preparation.counts import Counts
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates import matching
from gpt4x.preparation.duplicates.join import Join, Match, NearJoin
from gpt4x.preparation.inputs import Shard
from gpt4x.preparation.statistics import Statistics

Step = tuple[str, Any]  # A name that no other step has, and a rule or a join.


class Stage(NamedTuple):
  """So many tasks, of which each does `run(stage, index)`; `sizes` say how long each will take, as a share."""

  kind: Literal["pass", "match", "alike", "choose"]
  number: int
  sizes: tuple[int, ...]

  @property
  def name(self) -> str:
    return f"{self.kind}{self.number}"


@dataclasses.dataclass(frozen=True)
class Work:
  """What is to be done.

  Attributes:
    steps: in their order.
    shards: of the input.
    folder: where the output is written; what lies between the stages is in `work` in it.
    form: of the output, `jsonl` or `parquet`.
    field: of JSON lines and Parquet, which has the text.
    statistics: what is counted of documents that are kept, with nothing counted yet.
  """

  steps: tuple[Step, ...]
  shards: tuple[Shard, ...]
  folder: str
  form: Literal["jsonl", "parquet"] = "jsonl"
  field: str = "text"
  statistics: Statistics | None = None

  @functools.cached_property
  def passes(self) -> list[tuple[Step | None, list[Step], Join | None]]:
    """(join that a pass begins with, rules, join that it prepares)."""
    found, rules, join = list[tuple[Step | None, list[Step], Join | None]](), list[Step](), None
    for step in self.steps:
      if isinstance(step[1], Join):
        found.append((join, rules, step[1]))
        join, rules = step, []
      else:
        rules.append(step)
    return [*found, (join, rules, None)]

  def stages(self) -> Iterator[Stage]:
    """The stages that are left, each once those before are done."""
    last = len(self.passes) - 1
    sizes = tuple(max(1, sum(file.size for file in shard)) for shard in self.shards)
    order = [(kind, number) for number in range(last + 1) for kind in ("pass", "match", "alike", "choose")
             if self._has(kind, number)]
    done = [self._done(kind, number).exists() for kind, number in order]
    for at, (kind, number) in enumerate(order):
      if any(done[at:]):  # What a later stage was made from may be gone.
        continue
      if kind == "match":
        self._write_parts(number)
        tasks = tuple(1 for _ in self._parts(number))
      else:
        tasks = (1,) if kind == "choose" else sizes
      yield Stage(kind, number, tasks)  # type: ignore[arg-type]
      storage.write(self._done(kind, number), b"")
      if kind == "pass" and number:
        self._remove(number - 1)

  def run(self, stage: Stage, index: int) -> None:
    """Does one task, unless it is done."""
    if not (end := self._end(stage.kind, stage.number, index)).exists():
      storage.make_directory(end.parent)
      {"pass": self._pass, "match": self._match, "alike": self._alike, "choose": self._choose}[stage.kind](
          stage.number, index, end)

  def counts(self) -> Counts:
    """What became of all documents."""
    last = len(self.passes) - 1
    return counts.total(self._counts(last, shard) for shard in range(len(self.shards)))

  def counted_statistics(self) -> Statistics | None:
    """What is counted of all documents that were kept."""
    if self.statistics is None:
      return None
    found = copy.deepcopy(self.statistics)
    for path in self._files("pass", len(self.passes) - 1, "statistics"):
      found.merge(self.statistics.from_json(json.loads(storage.read_bytes(path))))
    return found

  def finish(self) -> None:
    """Removes what lay between the stages."""
    with contextlib.suppress(FileNotFoundError):
      self._place("").rmtree() if storage.is_remote(self.folder) else shutil.rmtree(self._place(""))  # type: ignore

  # Where things lie.

  def _place(self, *parts: str) -> pathlib.Path:
    return storage.path(self.folder).joinpath("work", *parts)

  def _done(self, kind: str, number: int) -> pathlib.Path:
    return self._place(f"{kind}{number}.done")

  def _file(self, kind: str, number: int, index: int, what: str) -> pathlib.Path:
    return self._place(f"{kind}{number}", f"{index:05}.{what}")

  def _end(self, kind: str, number: int, index: int) -> pathlib.Path:
    return self._file(kind, number, index, "counts" if kind == "pass" else "matches")

  def _files(self, kind: str, number: int, what: str) -> list[pathlib.Path]:
    count = {"match": lambda: len(self._parts(number)), "choose": lambda: 1}.get(kind, lambda: len(self.shards))()
    return [self._file(kind, number, index, what) for index in range(count)]

  def _has(self, kind: str, number: int) -> bool:
    join = self.passes[number][2]
    return kind == "pass" or isinstance(join, Join if kind == "match" else NearJoin)

  def _remove(self, number: int) -> None:
    for kind in ("pass", "match", "alike", "choose"):
      for path in storage.files_below(self._place(f"{kind}{number}")):
        path.unlink()

  # Parts of keys.

  def _write_parts(self, number: int) -> None:
    if not (path := self._place(f"match{number}.parts")).exists():
      storage.write(path, json.dumps(matching.parts(self._files("pass", number, "keys"))).encode())

  def _parts(self, number: int) -> list[tuple[int, int]]:
    return [(start, stop) for start, stop in json.loads(storage.read_bytes(self._place(f"match{number}.parts")))]

  # Tasks.

  def _match(self, number: int, index: int, end: pathlib.Path) -> None:
    matching.write_matches(self._files("pass", number, "keys"), self._parts(number)[index], end,
                           pairs=self._has("alike", number))

  def _alike(self, number: int, index: int, end: pathlib.Path) -> None:
    join = self.passes[number][2]
    assert isinstance(join, NearJoin)
    matching.write_alike(join, index, self._files("match", number, "matches"), self._files("pass", number, "features"),
                         end)

  def _choose(self, number: int, index: int, end: pathlib.Path) -> None:
    matching.write_chosen(self._files("alike", number, "matches"), end)

  def _pass(self, number: int, index: int, end: pathlib.Path) -> None:
    before, rules, join = self.passes[number]
    counted = self._counts(number - 1, index) if number else Counts()
    documents = self._joined(number - 1, index, before, counted) if before else (
        (document, None) for document in self._read(self.shards[index], counted))
    statistics = copy.deepcopy(self.statistics)
    with self._writer(number, index, join) as write, self._dropped(number, index) as write_dropped:
      for document, why in documents:
        step = before[0] if before else ""
        if why is None:
          document, why, step = through(rules, document, counted)
        if why is None:
          write(document)
          if join is None:
            counted.note_kept(document)
            if statistics:
              statistics.add(document)
        else:
          counted.note_dropped(step, document, why)
          write_dropped(output.dropped_line(step, document, why))
    if join is None and statistics:
      storage.write(self._file("pass", number, index, "statistics"), json.dumps(statistics.to_json(None)).encode())
    storage.write(end, json.dumps(counted.to_json()).encode())

  def _counts(self, number: int, index: int) -> Counts:
    return Counts.from_json(json.loads(storage.read_bytes(self._end("pass", number, index))))

  def _read(self, shard: Shard, counted: Counts) -> Iterator[Document]:
    for file in shard:
      for document in sources.read(file.path, file.name, counted.note_unreadable, self.field):
        counted.note_read(document)
        yield document

  def _joined(self, number: int, index: int, step: Step, counted: Counts
              ) -> Iterator[tuple[Document, Dropped | None]]:
    """The documents of the pass before, as the join has them."""
    name, join = step
    kind = "choose" if self._has("choose", number) else "match"
    found = itertools.groupby(matching.matches_of(self._files(kind, number, "matches"), index), lambda one: one[0])
    names = functools.lru_cache(maxsize=64)(
        lambda shard: shard_files.Names(self._file("pass", number, shard, "names")))
    row, matches = next(found, (-1, iter(())))
    for at, document in enumerate(shard_files.documents(self._file("pass", number, index, "documents"))):
      if at != row:
        yield document, None
        continue
      result = join.apply(document, [
          Match(place, names(shard)[other], (shard, other) == (index, at), other_place, value)
          for _, place, shard, other, other_place, value in matches])
      if isinstance(result, Dropped):
        yield document, result
      else:
        counted.note_cut(name, document, result)
        yield result, None
      row, matches = next(found, (-1, iter(())))

  @contextlib.contextmanager
  def _writer(self, number: int, index: int, join: Join | None) -> Iterator[Callable[[Document], Any]]:
    """Takes the documents of a pass: into the output, or into what the join needs."""
    if join is None:
      with output.writer(self.folder, index, len(self.shards), self.form) as write:
        yield write
      return
    file = functools.partial(self._file, "pass", number, index)
    names, keys, features = list[str](), list[np.ndarray](), list[np.ndarray]()
    with shard_files.packed(file("documents")) as packed:
      def write(document: Document) -> None:
        packed.write(shard_files.document_line(document))
        if isinstance(join, NearJoin):
          features.append(join.features(document))
          found, places = join.keys_of(features[-1])
        else:
          found, places = join.keys(document)
        entries = np.zeros(len(found), shard_files.ENTRY)
        entries["key"], entries["place"], entries["row"] = found, places, len(names)
        keys.append(entries)
        names.append(document.name)
      yield write
    shard_files.write_groups(file("names"), [np.frombuffer(name.encode(errors="replace"), np.uint8) for name in names])
    if isinstance(join, NearJoin):
      shard_files.write_groups(file("features"), features)
    shard_files.write_entries(file("keys"), np.concatenate([np.zeros(0, shard_files.ENTRY), *keys]))

  @contextlib.contextmanager
  def _dropped(self, number: int, index: int) -> Iterator[Callable[[bytes], Any]]:
    """Takes the lines of what is dropped; those of all passes are in the last one's."""
    last = number == len(self.passes) - 1
    path = output.dropped_path(self.folder, index, len(self.shards)) if last else self._file(
        "pass", number, index, "dropped")
    storage.make_directory(path.parent)
    with shard_files.packed(path) as file:
      if number:
        with shard_files.unpacked(self._file("pass", number - 1, index, "dropped")) as earlier:
          shutil.copyfileobj(earlier, file)
      yield file.write


def through(rules: Sequence[Step], document: Document, counted: Counts) -> tuple[Document, Dropped | None, str]:
  """A document behind all rules, or the one that drops it and why."""
  for name, rule in rules:
    try:
      result = rule(document)
    except UserError:
      raise
    except Exception as error:
      raise UserError(f"step {name} failed at {document.name} ({type(error).__name__}: {one_line(error)}): mend the"
                      " step, then run the same command again") from error
    if isinstance(result, Dropped):
      return document, result, name
    if not isinstance(result, Document):
      raise UserError(f"step {name} returned {one_line(repr(result), 80)} for {document.name}: let it return the"
                      " document, or gpt4x.preparation.document.Dropped(reason)")
    counted.note_cut(name, document, result)
    document = result
  return document, None, ""

