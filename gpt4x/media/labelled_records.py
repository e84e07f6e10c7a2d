"""Records with labels, JSON-lines that people and models write in turn; docs/annotation.md shows them.

A record is known by what it is about, its texts and the bytes of its media: neither its line nor a file's name counts.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import io
import json
import os
from typing import Any

from gpt4x import storage
from gpt4x.data import json_lines
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import UserError
from gpt4x.media import records
from gpt4x.media.medium import MEDIA
from gpt4x.media.records import File, Part

# What is written beside a record's own fields and its label, which is no part of what is read again.
ADDED = ("confidence", "source", "checked", "prompt", "completion", "suggestions", "suggested", "margin")
_EXAMPLE = '{"text": "...", "label": "..."}'


@dataclasses.dataclass(frozen=True)
class LabelledRecord:
  """One line.

  Attributes:
    place: PATH:LINE, for messages.
    fields: as they were read, but for the label and what is ADDED.
    parts: what is to be labelled.
    identity: of the parts.
    label: that of a person; None: there is none yet.
    predicted: that of a model.
    checked: whether a person has looked at the label again.
  """

  place: str
  fields: dict[str, Any]
  parts: tuple[Part, ...]
  identity: str
  label: str | None = None
  predicted: str | None = None
  checked: bool = False


def read(path: str, label_field: str, flag: str) -> list[LabelledRecord]:
  """The records of a file, packed or not, of this machine or in a bucket; `flag` is what a message says to correct."""
  try:
    content = storage.read_bytes(storage.path(path))
    lines = io.BytesIO(unpacked(io.BufferedReader(io.BytesIO(content))).read())
  except FileNotFoundError:
    raise UserError(f"no file {shown(path)}: correct {flag}") from None
  except READ_ERRORS as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"cannot read {shown(path)} ({reason}): correct {flag}") from None
  folder = records.folder_of(path)

  def bad(message: str) -> None:
    raise UserError(message)

  make = lambda place, record: _made(place, record, folder, label_field)
  return list(json_lines.objects(path, lines, make, bad, _EXAMPLE))


def _made(place: str, record: dict[str, Any], folder: str, label_field: str) -> LabelledRecord:
  label = _label(record, label_field)
  fields = {name: value for name, value in record.items() if name != label_field}
  source = fields.get("source")
  if source in ("given", "model") or "suggestions" in fields:  # We have written it.
    others = fields.keys() & {"text", "question", "answer", "parts"}
    fields = {name: value for name, value in fields.items() if name not in ADDED or name == "prompt" and not others}
    if source and isinstance(parts := fields.get("parts"), list) and any(isinstance(part, dict) for part in parts):
      if "completion" in record:  # The last part is the label.
        fields["parts"] = parts[:-1]
      if any(name in fields for name in MEDIA):
        del fields["parts"]
  parts = records.asked(fields, folder)
  is_model = source == "model"
  return LabelledRecord(place, fields, parts, _identity(parts), None if is_model else label,
                        label if is_model else None, record.get("checked") is True)


def _label(record: dict[str, Any], name: str) -> str | None:
  value = record.get(name)
  if isinstance(value, bool | int):
    return json.dumps(value)
  if not isinstance(value, str | None):
    raise ValueError(f'its "{name}" is of type {type(value).__name__}: give a label as text')
  if not value or not value.strip():
    return None
  value.encode()  # JSON can spell half a surrogate pair, which is no text.
  return value.strip()


def _identity(parts: Sequence[Part]) -> str:
  found = hashlib.sha256()
  for part in parts:
    kind, content = ("text", part.encode()) if isinstance(part, str) else (part.medium, _content(part.path))
    found.update(f"{kind} {len(content)} ".encode() + content)
  return found.hexdigest()


def _content(path: str) -> bytes:
  """A hash of a file's bytes."""
  if storage.is_remote(path):
    return hashlib.sha256(storage.read_bytes(storage.path(path))).digest()
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").digest()


def corrected(given: Sequence[LabelledRecord], corrections: Sequence[LabelledRecord]) -> list[LabelledRecord]:
  """The records with the labels of corrections, of which the later count; one without a label changes nothing.

  A label that a person has changed, or marked, counts as checked. Raises UserError for a correction of no record, for
  two of one file that differ, and for one that is a model's.
  """
  known, latest = {one.identity for one in given}, dict[str, LabelledRecord]()
  for one in corrections:
    if one.predicted is not None:
      raise UserError(f"{shown(one.place)}: the label is a model's: set its \"source\" to \"given\" if a person has"
                      " checked it, or take the line out")
    if one.label is None:
      continue
    if one.identity not in known:
      raise UserError(f"{shown(one.place)}: no record of --input has this content: change labels alone, and give the"
                      " --input that the file was made of")
    before = latest.get(one.identity)
    same_file = before and before.place.rpartition(":")[0] == one.place.rpartition(":")[0]
    if before and same_file and before.label != one.label:
      raise UserError(f"{shown(one.place)}: the label {one.label!r}, and {before.label!r} for the same content in line"
                      f" {before.place.rpartition(':')[2]}: keep one")
    latest[one.identity] = one

  def merged(record: LabelledRecord) -> LabelledRecord:
    new = latest.get(record.identity)
    if new is None or new.label == record.label and not new.checked:
      return record
    return dataclasses.replace(record, label=new.label, checked=True)

  return [merged(record) for record in given]


# Lines to be written.


def line(record: LabelledRecord, folder: str, first: Mapping[str, Any]) -> dict[str, Any]:
  """A record for a file in another folder, behind what a person should see first."""
  own = dict(record.fields)
  if "parts" in own:
    own["parts"] = _listed(record.parts, folder)
  else:
    own |= {part.medium: _moved(part.path, folder) for part in record.parts if isinstance(part, File)}
  return {**first, **{name: value for name, value in own.items() if name not in first}}


def training_line(record: LabelledRecord, folder: str, label_field: str, label: str, **added: Any) -> dict[str, Any]:
  """A labelled record for fine-tuning: "prompt" and "completion"; with media "parts", the last one the label."""
  found = line(record, folder, {}) | {label_field: label} | added
  if all(isinstance(part, str) for part in record.parts):
    return found | {"prompt": "".join(map(str, record.parts)), "completion": label}
  return found | {"parts": [*_listed(record.parts, folder), label], "completion": label}


def _listed(parts: Sequence[Part], folder: str) -> list[str | dict[str, str]]:
  return [part if isinstance(part, str) else {part.medium: _moved(part.path, folder)} for part in parts]


def _moved(path: str, folder: str) -> str:
  """A file's path from a folder; in full where one of both is in a bucket."""
  if storage.is_remote(path):
    return path
  return os.path.abspath(path) if storage.is_remote(folder) else os.path.relpath(path, folder)
