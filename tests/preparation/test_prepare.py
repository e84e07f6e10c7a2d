"""Preparations: the same bytes however they run and wherever they are stopped, and what is counted."""

import errno
import gzip
import inspect
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import gin
from hypothesis import given, HealthCheck, settings, strategies
import pytest

from gpt4x import cli, storage
from gpt4x.errors import UserError
from gpt4x.preparation import engines, inputs, pipeline, shard_files
from gpt4x.preparation.contamination import Decontaminate
from gpt4x.preparation.counts import Counts
from gpt4x.preparation.document import Dropped
from gpt4x.preparation.duplicates.exact import ExactDuplicates
from gpt4x.preparation.duplicates.lines import RepeatedLines
from gpt4x.preparation.duplicates.near import NearDuplicates
from gpt4x.preparation.duplicates.substrings import RepeatedSubstrings
from gpt4x.preparation.pipeline import Preparation
from gpt4x.preparation.rules import quality
from gpt4x.preparation.rules.where import Where
from gpt4x.preparation.rules.word_lists import WordList
from gpt4x.preparation.statistics import Statistics
from tests import buckets
from tests.preparation.preparing import Here, prepared, read, run, write

FILES = [["a text of some words", "short", "a text of some words"], ["", "a text of some more words\nshort line"],
         ["short line", "a text of some words and more", "ends here with a text of some more words"]]


def no_short(document):
  """A rule of a user's own."""
  length = len(document.text)
  return Dropped("short", length) if length < 8 else document.with_text(document.text, long=True)


def shout(document):
  return document.with_text(document.text.upper())


STEPS = (no_short, ExactDuplicates(), shout, NearDuplicates(0.7, ngram=1, bands=40, rows=2), RepeatedLines(),
         RepeatedSubstrings(words=4))


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in storage.files_below(folder)}


def test_documents_go_through_the_steps_in_their_order(tmp_path):
  found = prepared(tmp_path, FILES, *STEPS)
  assert {name: one["step"] for name, one in found.dropped.items()} == {
      "a.jsonl:2": "no_short", "a.jsonl:3": "ExactDuplicates", "b.jsonl:1": "no_short", "c.jsonl:1": "RepeatedLines",
      "c.jsonl:2": "NearDuplicates"}
  assert found.kept == {"a.jsonl:1": "A TEXT OF SOME WORDS", "b.jsonl:2": "MORE WORDS\nSHORT LINE",
                        "c.jsonl:3": "ENDS HERE WITH "}


def test_all_documents_and_bytes_are_accounted_for(tmp_path):
  """What was read is what was kept, dropped by each reason, and cut."""
  counts = prepared(tmp_path, FILES, *STEPS).counts
  dropped = [counted for reasons in counts.dropped.values() for counted in reasons.values()]
  assert counts.read == [8, sum(len(text) for file in FILES for text in file)]
  assert counts.read[0] == counts.kept[0] + sum(documents for documents, _ in dropped)
  assert counts.read[1] == counts.kept[1] + sum(size for _, size in dropped) + sum(counts.cut.values())
  assert sum(counts.histograms["characters"].values()) == counts.kept[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_writes_the_same_bytes(tmp_path, workers):
  pattern = write(tmp_path / "input", *FILES)
  run(pattern, tmp_path / "here", *STEPS)
  run(pattern, tmp_path / "pool", *STEPS, engine=engines.Pool(workers))
  assert content(tmp_path / "pool") == content(tmp_path / "here")


def test_beam_writes_the_same_bytes(tmp_path):
  pattern = write(tmp_path / "input", *FILES)
  run(pattern, tmp_path / "here", *STEPS)
  run(pattern, tmp_path / "beam", *STEPS, engine=engines.Beam("FnApiRunner"))
  assert content(tmp_path / "beam") == content(tmp_path / "here")


def test_the_folder_and_the_order_of_the_input_do_not_matter(tmp_path):
  run(write(tmp_path / "input", *FILES), tmp_path / "one", *STEPS)
  folder = tmp_path / "elsewhere" / "deep"
  folder.parent.mkdir()
  write(folder, *FILES)
  work = Preparation(STEPS, shard_bytes=1).work([f"{folder}/c*", f"{folder}/*"], str(tmp_path / "two"))
  assert pipeline.identity(work) == json.loads((tmp_path / "one" / "preparation.json").read_text())


class Killed(BaseException):
  """No error that anything handles."""


def test_a_preparation_goes_on_wherever_it_was_stopped(tmp_path, monkeypatch):
  """Stopped before and after each file that is given its name, and after each that is removed."""
  pattern, steps = write(tmp_path / "input", *FILES[:2]), (no_short, RepeatedLines(), STEPS[3])
  statistics = Statistics({"lengths": ("short", "more")})  # Nothing is counted twice.
  run(pattern, tmp_path / "whole", *steps, statistics=statistics)
  whole, stops = content(tmp_path / "whole"), 0
  for stop in range(1, 1000):
    left = stop
    with monkeypatch.context() as patched:
      def counted(original):
        def call(self, *arguments, **more):
          nonlocal left
          left -= 1
          if left == 0:
            raise Killed
          return original(self, *arguments, **more)
        return call

      for name in ("replace", "unlink"):
        patched.setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
      output = tmp_path / f"stopped{stop}"
      try:
        run(pattern, output, *steps, statistics=statistics)
        break
      except Killed:
        stops += 1
    run(pattern, output, *steps, statistics=statistics)
    assert content(output) == whole, f"stopped at {stop}"
  assert stops > 50


def test_what_is_whole_is_left_alone(tmp_path, capsys):
  pattern = write(tmp_path / "input", *FILES)
  flags = ["--gin.Preparation.steps=[@ExactDuplicates()]", f"--input={pattern}", f"--output={tmp_path / 'output'}",
           "--workers=1"]
  assert cli.main(["prepare", *flags]) == 0
  before = content(tmp_path / "output")
  assert "kept 7 of 8 documents" in capsys.readouterr().out
  assert cli.main(["prepare", *flags]) == 0
  assert "is whole already: nothing to do" in capsys.readouterr().out and content(tmp_path / "output") == before


@pytest.mark.parametrize("change, what", [
    (lambda folder: {"steps": (no_short,)}, "steps"), (lambda folder: {"form": "parquet"}, "form"),
    (lambda folder: (folder / "a.jsonl").write_text('{"text": "A text of some words"}\n') and {}, "input")])
def test_other_steps_or_inputs_are_refused(tmp_path, change, what):
  pattern = write(tmp_path / "input", ["a text of some words"])
  run(pattern, tmp_path / "output", shout)
  more = change(tmp_path / "input")
  with pytest.raises(UserError, match=f"was begun with other {what}: give the same command to go on with it, or"):
    run(pattern, tmp_path / "output", *more.pop("steps", (shout,)), **more)


@pytest.mark.parametrize("change, what", [
    (lambda patched: patched.setattr(pipeline, "__version__", "0"), "gpt4x"),
    (lambda patched: patched.setattr(pipeline, "_version", {"ftfy": "0"}.get), "libraries"),
    (lambda patched: patched.setattr(inspect, "getsource", "def {0.__name__}(document): return document".format),
     "steps")])
def test_other_versions_of_what_decides_are_refused(tmp_path, monkeypatch, change, what):
  """Also of a function of the same name."""
  pattern = write(tmp_path / "input", ["a text of some words"])
  run(pattern, tmp_path / "output", shout)
  change(monkeypatch)
  with pytest.raises(UserError, match=f"was begun with other {what}: give the same command to go on with it, or"):
    run(pattern, tmp_path / "output", shout)


def test_a_function_of_one_s_own_has_its_parameters_in_other_processes(tmp_path, monkeypatch, capsys):
  """The one that the page shows; another parameter is another step."""
  page = (pathlib.Path(__file__).parents[2] / "docs" / "preparing-data.md").read_text()
  shown = re.search(r"^```python\n(# my_rules.py\n.*?)^```", page, re.DOTALL | re.MULTILINE)
  (tmp_path / "my_rules.py").write_text(shown[1])
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "steps.gin").write_text("import my_rules\nPreparation.steps = [@no_shouting]\n")
  command = ["prepare", f"--gin_file={tmp_path}/steps.gin", "--workers=1", f"--output={tmp_path}/output",
             f"--input={write(tmp_path / 'input', ['LOUD', 'LOUd', 'LOud', 'loud'])}"]
  assert cli.main([*command, "--gin.no_shouting.most=0.8"]) == 0
  assert list(read(tmp_path / "output").dropped) == ["a.jsonl:1"]
  assert cli.main([*command, "--gin.no_shouting.most=0.7"]) == 1
  assert "was begun with other steps" in capsys.readouterr().err
  assert cli.main([*command, "--gin.Preparation.steps=[@loud/no_shouting]"]) == 2
  assert "@no_shouting has a scope" in capsys.readouterr().err


def test_a_list_that_a_step_reads_is_part_of_it(tmp_path):
  words = tmp_path / "words.txt"
  words.write_text("one")
  step = gin.configurable("list_stand_in")(type("Listed", (), {"__call__": lambda self, document: document}))()
  step.file = str(words)
  before = pipeline._described(step)
  words.write_text("two")
  assert pipeline._described(step) != before


@pytest.mark.parametrize("model", ["models", "models/quality.npz", "~/models"])
def test_another_model_under_the_same_name_is_refused(tmp_path, monkeypatch, model):
  pattern, folder = write(tmp_path / "input", ["a text of some words"]), tmp_path / "models"
  folder.mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  quality.train(["good"], ["bad"], str(folder), buckets=64)
  run(pattern, tmp_path / "output", quality.Quality(model, least=0))
  run(pattern, tmp_path / "output", quality.Quality(model, least=0))
  quality.train(["bad"], ["good"], str(folder), buckets=64)
  with pytest.raises(UserError, match="was begun with other steps: give the same command to go on with it, or"):
    run(pattern, tmp_path / "output", quality.Quality(model, least=0))


def test_evaluation_items_in_a_bucket_are_part_of_a_step(gs):
  step = Decontaminate(f"{gs}/items/*.jsonl")
  buckets.put(f"{gs}/items/a.jsonl", '{"text": "one two three four five six"}')
  before = pipeline._described(step)
  assert before == pipeline._described(step)
  buckets.put(f"{gs}/items/a.jsonl", '{"text": "six five four three two one"}')
  assert pipeline._described(step) != before


def test_a_list_that_is_not_there_is_told_before_anything_is_written(tmp_path):
  pattern = write(tmp_path / "input", ["a text of some words"])
  with pytest.raises(UserError, match="WordList reads .*gone.txt, which cannot be read .No such file"):
    run(pattern, tmp_path / "output", WordList(str(tmp_path / "gone.txt")))
  assert not (tmp_path / "output").exists()


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
  (tmp_path / "output").mkdir()
  (tmp_path / "output" / "mine.txt").write_text("mine")
  with pytest.raises(UserError, match="has files already, of no preparation: choose another --output"):
    run(write(tmp_path / "input", ["text"]), tmp_path / "output", shout)


def test_a_rule_that_fails_is_named_with_its_document(tmp_path):
  def divide(document):
    return document.with_text(document.text, inverse=1 / len(document.text))

  with pytest.raises(UserError, match="step divide failed at a.jsonl:2 .ZeroDivisionError: division by zero."):
    prepared(tmp_path, [["one", ""]], divide)


def test_a_rule_that_returns_nothing_is_named(tmp_path):
  with pytest.raises(UserError, match="step forgetful returned None for a.jsonl:1: let it return the document, or"):
    prepared(tmp_path, [["text"]], forgetful)


def forgetful(document):
  document.text.upper()


def test_a_rule_about_a_field_that_no_step_wrote_ends_the_preparation(tmp_path):
  with pytest.raises(UserError, match="Where.field = 'quality': a.jsonl:1 has no such field"):
    prepared(tmp_path, [["text"]], shout, Where("quality", least=0.5))


class Full:
  """A disk that is full at one of the writes, and has room again behind it."""

  def __init__(self, at: int):
    self.left = at

  def patch(self, patched, owner, name):
    original = getattr(owner, name)

    def write(one, data):
      self.left -= 1
      if self.left == 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return original(one, data)

    patched.setattr(owner, name, write)


def test_a_full_disk_is_told_in_a_line_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(engines, "Pool", lambda workers: Here())
  pattern = write(tmp_path / "input", *FILES[:2])
  command = ["prepare", "--gin.Preparation.steps=[@ExactDuplicates(), @RepeatedLines()]", f"--input={pattern}",
             "--gin.Preparation.shard_bytes=1"]
  assert cli.main([*command, f"--output={tmp_path / 'whole'}"]) == 0
  whole, at, status = content(tmp_path / "whole"), 0, 1
  while status:
    capsys.readouterr()
    at, disk, output = at + 1, Full(at + 1), tmp_path / f"full{at}"
    with monkeypatch.context() as patched:
      disk.patch(patched, shard_files._Raw, "write")
      disk.patch(patched, pathlib.Path, "write_bytes")
      status = cli.main([*command, f"--output={output}"])
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert not status or said[-1].endswith("No space left on device: free some space, then run the command again"), said
    assert not any("Traceback" in line for line in said) and cli.main([*command, f"--output={output}"]) == 0
    assert content(output) == whole, f"full at {at}"
  assert at > 15


def test_a_worker_that_cannot_write_says_so_and_the_same_command_goes_on(tmp_path):
  """Files may not become as long as theirs would: what the system then says is as of a full disk."""
  draw = random.Random(0)
  pattern = write(tmp_path / "input", ["".join(draw.choices("abcdefghijklmno ", k=5000)) for _ in range(60)])
  command = [sys.executable, "-m", "gpt4x.cli", "prepare", "--gin.Preparation.steps=[@ExactDuplicates()]",
             f"--input={pattern}", f"--output={tmp_path / 'output'}", "--workers=1"]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
  full = subprocess.run(["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *command], env=environment, capture_output=True,
                        text=True)
  assert full.returncode == 1 and full.stderr.splitlines()[-1].endswith(
      "File too large: free some space, then run the command again")
  assert "Traceback" not in full.stderr and not list((tmp_path / "output").glob("part-*"))
  subprocess.run(command, env=environment, check=True, capture_output=True)
  run(pattern, tmp_path / "whole", ExactDuplicates(), shard_bytes=1 << 24)
  part = "part-00000-of-00001.jsonl.zst"
  assert (tmp_path / "output" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()


def test_a_rule_may_be_there_twice(tmp_path):
  found = prepared(tmp_path, [["one", "one", "ONE"]], ExactDuplicates(), shout, ExactDuplicates(), shout)
  assert {name: one["step"] for name, one in found.dropped.items()} == {
      "a.jsonl:2": "ExactDuplicates", "a.jsonl:3": "ExactDuplicates_2"}


def test_parquet_has_the_same_documents(tmp_path):
  from pyarrow import parquet
  pattern = write(tmp_path / "input", *FILES)
  lines = run(pattern, tmp_path / "lines", no_short)
  run(pattern, tmp_path / "parquet", no_short, form="parquet")
  rows = [row for path in sorted((tmp_path / "parquet").glob("*.parquet"))
          for row in parquet.read_table(path).to_pylist()]
  assert {row["id"]: row["text"] for row in rows} == lines.kept
  assert {row["metadata"] for row in rows} == {'{"long": true}'}


def test_text_that_is_no_text_is_counted_or_replaced(tmp_path):
  """Half a surrogate pair: in the input, and made by a step."""
  (tmp_path / "input").mkdir()
  (tmp_path / "input" / "a.jsonl").write_text('{"text": "half \\ud800 a pair"}\n{"text": "whole"}\n')
  found = run(str(tmp_path / "input" / "*"), tmp_path / "output", half, ExactDuplicates())
  assert found.kept == {"a.jsonl:2": "half ? a pair"} and found.counts.unreadable[0] == 1


def test_a_shard_that_is_cut_off_is_told_and_what_is_whole_is_kept(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(engines, "Pool", lambda workers: Here())
  pattern = write(tmp_path / "input", ["first"], ["second"])
  lines = "".join(json.dumps({"text": f"{number} " * 20}) + "\n" for number in range(9_000)).encode()
  (tmp_path / "input" / "c.jsonl.gz").write_bytes(gzip.compress(lines)[:-20_000])
  (tmp_path / "input" / "d.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\n")[:-9])
  output = tmp_path / "output"
  assert cli.main(["prepare", "--gin.Preparation.steps=[@ExactDuplicates()]", f"--input={pattern}*",
                   f"--input={tmp_path}/input/*.gz", f"--output={output}", "--gin.Preparation.shard_bytes=1"]) == 0
  kept, dropped, counts = read(output)
  assert not dropped and 1_000 < len(kept) < 9_000 and counts.unreadable[0] == 2
  assert list(kept)[-1] == f"c.jsonl.gz:{len(kept) - 2}" and counts.kept == counts.read
  for said in capsys.readouterr().out, (output / "report.html").read_text():
    assert "2 records could not be read" in said
  assert all(name in (output / "report.html").read_text() for name in ("c.jsonl.gz cannot be read", "d.warc.gz"))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.lists(strategies.integers(0, 9), min_size=1, max_size=12), strategies.integers(1, 20))
def test_files_are_dealt_to_shards_whole_and_in_order(tmp_path, sizes, most):
  with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
    for number, size in enumerate(sizes):
      (pathlib.Path(folder) / f"{number:02}").write_bytes(bytes(size))
    shards = inputs.find([f"{folder}/{len(sizes) - 1:02}", f"{folder}/*"], most)
  assert [(file.name, file.size) for shard in shards for file in shard] == [
      (f"{number:02}", size) for number, size in enumerate(sizes)]
  total = lambda shard: sum(file.size for file in shard)
  assert all(total(shard) <= most or len(shard) == 1 for shard in shards)
  assert all(total(one) + other[0].size > most for one, other in itertools.pairwise(shards))  # No shard too many.


def half(document):
  return document.with_text("half \ud800 a pair")


def test_counts_add_up_in_any_grouping():
  def some(number):
    one = Counts()
    from gpt4x.preparation.document import Document
    document = Document(f"{number}", "x" * number, fields={"language": "en", "quality": number / 10})
    one.note_read(document)
    one.note_dropped("Step", document, Dropped("why", number))
    one.note_kept(document)
    one.note_unreadable(f"record {number}")
    return one

  left, right = Counts(), Counts()
  for number in range(6):
    left.add(some(number))
  for start in (0, 3):
    part = Counts()
    for number in range(start, start + 3):
      part.add(some(number))
    right.add(part)
  assert left == right and left.read == [6, 15] and left.unreadable == [6, ["record 0", "record 1", "record 2"]]
  assert [one["name"] for one in left.examples["Step"]["why"]] == ["0", "1", "2"]
  assert Counts.from_json(json.loads(json.dumps(left.to_json()))) == left


def test_a_killed_worker_is_told(tmp_path):
  with pytest.raises(UserError, match="a worker of stage pass0 was killed, perhaps for want of memory"):
    run(write(tmp_path / "input", ["text"]), tmp_path / "output", end_the_process, engine=engines.Pool(1))


def end_the_process(document):
  import os
  os._exit(1)


def test_the_direct_runner_is_refused():
  with pytest.raises(UserError, match="--runner=DirectRunner first tries to download a program: use FnApiRunner"):
    engines.Beam("DirectRunner")


def test_read_groups_are_those_that_were_written(tmp_path):
  import numpy as np
  arrays = [np.arange(size, dtype="<u8") for size in (3, 0, 5)]
  shard_files.write_groups(tmp_path / "groups", arrays)
  groups = shard_files.Groups(tmp_path / "groups")
  assert len(groups) == 3 and groups.sizes(np.dtype("<u8")).tolist() == [3, 0, 5]
  assert groups.read(1, 3, np.dtype("<u8")).tolist() == [0, 1, 2, 3, 4] and not len(groups.read(1, 2, np.dtype("<u8")))




def test_statistics_are_of_what_is_kept(tmp_path):
  pattern = write(tmp_path / "input", ["she said", "no he"], ["she said", "she and her mother"])
  statistics = Statistics()
  run(pattern, tmp_path / "output", ExactDuplicates(), statistics=statistics)
  found = json.loads((tmp_path / "output" / "report.json").read_text())["statistics"]
  assert found["documents"] == 3 and found["pronouns"] == {"feminine": 3, "masculine": 1, "plural": 0}
  assert statistics.documents == 0  # What is counted is not the prototype's.
  assert "Who is spoken of" in (tmp_path / "output" / "report.html").read_text()
