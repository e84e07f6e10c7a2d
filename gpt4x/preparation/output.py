"""What is written: documents that were kept, as JSON lines or Parquet, and what was dropped beside them."""

from collections.abc import Callable, Iterator
import contextlib
import json
import pathlib
from typing import Any, Literal

from gpt4x import storage
from gpt4x.preparation import shard_files
from gpt4x.preparation.document import Document, Dropped

_ROWS = 1000  # Of a group of Parquet.


@contextlib.contextmanager
def writer(folder: str, index: int, count: int, form: Literal["jsonl", "parquet"]
           ) -> Iterator[Callable[[Document], Any]]:
  """Takes the documents of a shard: {"text", "id", "metadata"} each."""
  if form == "parquet":
    with _parquet(_path(folder, "part", index, count, "parquet")) as write:
      yield write
    return
  with shard_files.packed(_path(folder, "part", index, count, "jsonl.zst")) as file:
    yield lambda document: file.write(shard_files.line(
        {"text": document.text, "id": document.name, "metadata": dict(document.fields)}))


@contextlib.contextmanager
def _parquet(path: pathlib.Path) -> Iterator[Callable[[Document], Any]]:
  import pyarrow
  from pyarrow import parquet
  schema = pyarrow.schema([(name, pyarrow.string()) for name in ("text", "id", "metadata")])
  rows = list[dict[str, str]]()
  with storage.new_file(path) as unfinished, parquet.ParquetWriter(unfinished, schema, compression="zstd") as file:
    def write(document: Document) -> None:
      rows.append({"text": document.text, "id": document.name,
                   "metadata": json.dumps(dict(document.fields), ensure_ascii=False)})
      if len(rows) == _ROWS:
        flush()

    def flush() -> None:
      file.write_table(pyarrow.Table.from_pylist(rows, schema))
      rows.clear()

    yield write
    flush()


def dropped_path(folder: str, index: int, count: int) -> pathlib.Path:
  """Where the lines about dropped documents of a shard are."""
  return _path(folder, "dropped/part", index, count, "jsonl.zst")


def dropped_line(step: str, document: Document, why: Dropped) -> bytes:
  """{"id", "step", "reason", "value", "match"} of a document."""
  return shard_files.line({"id": document.name, "step": step, "reason": why.reason, "value": why.value,
                           "match": why.match})


def _path(folder: str, name: str, index: int, count: int, suffix: str) -> pathlib.Path:
  return storage.path(folder) / f"{name}-{index:05}-of-{count:05}.{suffix}"
