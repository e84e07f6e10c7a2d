"""Records of media and text, each a line of JSON, and what a task makes of one.

  {"image": "a.png", "text": "a red door"}                        also "audio" and "video"
  {"image": "a.png", "question": "How many?", "answer": "two"}
  {"parts": ["Before ", {"image": "a.png"}, " and after ", {"audio": "b.wav"}]}

Paths are relative to the folder of the JSON-lines file.
"""

from collections.abc import Callable, Iterator
import json
import os
from typing import Any, BinaryIO, Literal, NamedTuple

from gpt4x import storage
from gpt4x.data import json_lines
from gpt4x.data.text_files import shown
from gpt4x.media.medium import MEDIA

Kind = Literal["document", "to_text", "to_media", "image", "audio", "video"]
_KEYS = {*MEDIA, "text", "question", "answer", "parts"}
EXAMPLE = '{"image": "a.png", "text": "..."}'


class File(NamedTuple):
  """A medium that lies in a file."""

  medium: str
  path: str


Part = str | File


class Record(NamedTuple):
  """One line: its place for messages, and its parts."""

  place: str  # PATH:LINE
  parts: tuple[Part, ...]
  form: Literal["caption", "question", "parts"]  # A caption stands behind its media; a question, before its answer.


class Example(NamedTuple):
  """What a task reads: parts, of which the first `num_inputs` are the inputs."""

  place: str
  parts: tuple[Part, ...]
  num_inputs: int = 0


def read(path: str, lines: BinaryIO, bad: Callable[[str], None]) -> Iterator[Record]:
  """The records of a JSON-lines file; `bad` is called with a line of text about each that is none."""
  folder = folder_of(path)

  def record(place: str, given: dict[str, Any]) -> Record:
    parts, form = _parts(given)
    return Record(place, tuple(_found(part, folder) for part in parts), form)

  yield from json_lines.objects(path, lines, record, bad, EXAMPLE)


def folder_of(path: str) -> str:
  """Where paths in a JSON-lines file count from."""
  return os.fspath(path).rpartition("/")[0]


def _parts(record: dict[str, Any]) -> tuple[list[Part], Any]:
  """(parts, form) of a record; a ValueError says what is wrong with it."""
  if not record.keys() & _KEYS:
    names = ", ".join(repr(name[:30]) for name in list(record)[:5]) or "nothing"
    raise ValueError(f"it has {names}, and neither media nor text: name them as in {EXAMPLE}")
  if "parts" in record:
    return _listed(record["parts"]), "parts"
  media = [_medium({name: record[name]}) for name in record if name in MEDIA]
  if "question" in record or "answer" in record:
    return [*media, _text(record.get("question"), "question"), _text(record.get("answer"), "answer")], "question"
  return media + ([_text(record["text"], "text")] if "text" in record else []), "caption"


def _listed(parts: Any) -> list[Part]:
  if not isinstance(parts, list) or not parts:
    raise ValueError('"parts" is no list of texts and media: write it as ["Before ", {"image": "a.png"}]')
  return [_text(part, "parts") if isinstance(part, str) else _medium(part) for part in parts]


def _text(value: Any, name: str) -> str:
  if not isinstance(value, str):
    what = "is missing" if value is None else f"is of type {type(value).__name__}"
    raise ValueError(f'its "{name}" {what}: give it as text')
  value.encode()  # JSON can spell half a surrogate pair, which is no text.
  return value


def _medium(part: Any) -> File:
  (name, path), = part.items() if isinstance(part, dict) and len(part) == 1 else [("", None)]
  if name not in MEDIA or not isinstance(path, str) or not path:
    raise ValueError(f"{json.dumps(part)[:60]} is no medium: write it as {{\"image\": \"a.png\"}}, with one of"
                     f" {', '.join(MEDIA)}")
  return File(name, path)


def _found(part: Part, folder: str) -> Part:
  """A part whose file's path is complete, and there."""
  if isinstance(part, str):
    return part
  path = part.path if storage.is_remote(part.path) else os.path.join(folder, os.path.expanduser(part.path))
  if not storage.is_remote(path) and not os.path.isfile(path):
    raise ValueError(f"there is no file {shown(path)}: correct the path of its {part.medium}, which counts from the"
                     " folder of the JSON-lines file")
  return File(part.medium, path)


# What is to be labelled.


def asked(record: dict[str, Any], folder: str) -> tuple[Part, ...]:
  """The parts of a record without its label: "parts"; or its media and, as one, the texts of all other names.

  These are "text", "question" and "answer"; or "prompt", where there are no others.
  """
  if "parts" in record:
    parts = _listed(record["parts"])
  else:
    texts = [_text(record[name], name) for name in ("text", "question", "answer") if name in record]
    parts = [_medium({name: record[name]}) for name in record if name in MEDIA]
    if not texts and not parts and "prompt" in record:
      texts = [_text(record["prompt"], "prompt")]
    parts += [text] if (text := "\n".join(texts)) else []
  if not any(parts):
    names = ", ".join(repr(name[:30]) for name in list(record)[:5]) or "nothing"
    raise ValueError(f"beside a label it has {names}, and neither media nor a text that says something: name them as in"
                     f" {EXAMPLE}")
  return tuple(_found(part, folder) for part in parts)


# What a task makes of a record.


def examples(record: Record, kind: Kind, text_first: bool = False) -> list[Example]:
  """The examples of a record for a kind of task; a ValueError says what it lacks."""
  parts, media = record.parts, [part for part in record.parts if isinstance(part, File)]
  last = parts[-1] if parts else ""
  if kind in MEDIA:
    found = [Example(record.place, (part,)) for part in media if part.medium == kind]
    if not found:
      raise ValueError(f"it has no {kind}, which the task is made of: take it out")
    return found
  if kind == "document":
    captioned = record.form == "caption" and len(parts) > 1 and isinstance(last, str)
    return [Example(record.place, (last, *parts[:-1]) if captioned and text_first else parts)]
  if kind == "to_text":
    if not media or not isinstance(last, str) or not last:
      raise ValueError("it has no text behind a medium, which the task is to write: give it one, or take it out")
    return [Example(record.place, parts, len(parts) - 1)]
  if record.form == "caption" and len(media) == 1 and isinstance(last, str):
    return [Example(record.place, (last, media[0]), 1)]
  if record.form != "parts" or not isinstance(last, File) or len(parts) < 2:
    raise ValueError("it has no medium with a text, which the task is to make: give it one, or take it out")
  return [Example(record.place, parts, len(parts) - 1)]


def group(record: Record) -> str:
  """What is held out together: all that is said of one medium, or one text; the same wherever the folder lies."""
  media = [part.path for part in record.parts if isinstance(part, File)]
  folder = record.place.rpartition("/")[0]
  return media[0].removeprefix(f"{folder}/") if media else "".join(map(str, record.parts))
