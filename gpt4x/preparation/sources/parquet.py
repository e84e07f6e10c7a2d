"""Parquet: a column of texts and the columns beside it."""

from collections.abc import Callable, Iterator
import datetime
import decimal
import math
from typing import Any, BinaryIO

from gpt4x.data.text_files import READ_ERRORS, shown
from gpt4x.errors import one_line
from gpt4x.preparation.decoding import lines_unified
from gpt4x.preparation.document import Document

_ROWS = 256  # Rows in memory at a time: texts may be long.


def read(name: str, opened: Callable[[], BinaryIO], bad: Callable[[str], None], column: str = "text"
         ) -> Iterator[Document]:
  """Yields the rows of a file as NAME:ROW, from 1; the text is what `column` has, and the others are kept as fields.

  Values without a type in JSON become text (dates) or are left out (bytes). `bad` is called about rows without a text,
  about row groups that cannot be read, and about a file that cannot, or that has no such column.
  """
  import pyarrow as pa
  from pyarrow import parquet

  errors = (*READ_ERRORS, pa.ArrowException)
  try:
    with opened() as file:
      opened_file = parquet.ParquetFile(file)
      if column not in opened_file.schema_arrow.names:
        bad(f"{shown(name)} has no column {column!r} but {', '.join(opened_file.schema_arrow.names)}: name the column"
            " that has the text")
        return
      first = 1
      for group in range(opened_file.num_row_groups):
        row, behind = first, first + opened_file.metadata.row_group(group).num_rows
        try:
          for batch in opened_file.iter_batches(_ROWS, row_groups=[group]):
            for record in batch.to_pylist():
              text = record.pop(column)
              if isinstance(text, str):
                yield Document(f"{name}:{row}", lines_unified(text), fields=_fields(record))
              else:
                bad(f"{shown(name)}:{row}: its {column!r} is of type {type(text).__name__} and no text: correct it")
              row += 1
        except errors as error:
          bad(f"{shown(name)}: rows {row:,} to {behind - 1:,} cannot be read ({one_line(error)}): copy the file again")
        first = behind
  except errors as error:
    bad(f"{shown(name)} cannot be read as Parquet ({one_line(error)}): copy it again")


def _fields(record: dict[str, Any]) -> dict[str, Any]:
  return {name: _json(value) for name, value in record.items() if value is not None and not isinstance(value, bytes)}


def _json(value: Any) -> Any:
  if isinstance(value, list):
    return [_json(one) for one in value]
  if isinstance(value, dict):
    return _fields(value)
  if isinstance(value, datetime.datetime | datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, decimal.Decimal | datetime.timedelta | bytes) or isinstance(value, float) and math.isnan(value):
    return str(value)
  return value
