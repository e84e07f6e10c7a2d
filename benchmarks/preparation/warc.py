"""Reading web archives: documents ahead of bare FastWARC, which does not say what is damaged.

The archives of a folder (*.warc.gz), one after another and again and again, up to some hundred megabytes. Both read all
responses with their bodies and HTTP headers; ours makes documents of them.

  warc    responses/s by `sources.warc`, beside FastWARC's

    python -m benchmarks.preparation.warc --data=DIR [--rounds=3] [--dry_run]
"""

from collections.abc import Callable, Iterator
import io
import pathlib

from benchmarks import harness
from benchmarks.harness import Round, Row
from benchmarks.preparation import scripts

_BYTES = 1 << 27  # About as many are read in a round, compressed.


def rows(given: scripts.Given) -> Iterator[Row]:
  found = harness.alternate({"ours": ours, "bare": bare}, given.data, given.rounds)
  yield harness.compare("preparation/warc", "responses/s", found["ours"], found["bare"], "responses",
                        goal="ratio >= 0.9")


def ours(data: str) -> Callable[[], Round]:
  from gpt4x.preparation.sources import warc

  def refuse(message: str) -> None:
    raise ValueError(message)

  return _timed(data, lambda archive: sum(1 for _ in warc.read("a.warc.gz", lambda: archive_of(archive), refuse)))


def bare(data: str) -> Callable[[], Round]:
  from fastwarc.warc import ArchiveIterator, WarcRecordType

  def read(archive: bytes) -> int:
    count = 0
    for record in ArchiveIterator(io.BytesIO(archive), record_types=WarcRecordType.response, parse_http=True):
      count += bool(record.reader.read())
    return count

  return _timed(data, read)


def archive_of(archive: bytes) -> io.BufferedReader:
  return io.BufferedReader(io.BytesIO(archive))  # type: ignore[arg-type]


def _timed(data: str, read: Callable[[bytes], int]) -> Callable[[], Round]:
  """Reads the archive; every response in it must have been read, by either side."""
  once = b"".join(path.read_bytes() for path in sorted(pathlib.Path(data).glob("*.warc.gz")))
  times = max(1, _BYTES // len(once))
  archive, expected = once * times, times * read(once)

  def all_of_it() -> None:
    if (count := read(archive)) != expected:
      raise ValueError(f"{count:,} of {expected:,} responses were read")

  return lambda: {"responses": expected / harness.timed(all_of_it)}


if __name__ == "__main__":
  scripts.main(rows, "web archives, *.warc.gz")
