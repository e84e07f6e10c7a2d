"""A folder of images or sounds with captions: a `.txt` beside each, or all in a `metadata.jsonl`."""

from collections.abc import Callable, Iterator, Mapping
import os
import pathlib
from typing import Any

from gpt4x import storage
from gpt4x.data import json_lines
from gpt4x.data.text_files import shown
from gpt4x.preparation.decoding import decoded
from gpt4x.preparation.document import Document

METADATA = "metadata.jsonl"
_MEDIA: Mapping[str, str] = (
    dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif"), "image")
    | dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a"), "audio"))
_EXAMPLE = '{"file_name": "a.png", "text": "..."}'


def read(folder: str, bad: Callable[[str], None], name: str = "") -> Iterator[Document]:
  """Yields the captions of a folder and of those below it, in order, with the path of "image" or "audio" as a field.

  Paths count from the same folder as names do, which is the document's `folder`.

  A document is named by its medium, FILE:1, or by its line in the metadata, FILE:LINE. A line has "text", and the file
  as "image", "audio" or "file_name", relative to the metadata; its other fields are kept. What it has no line for needs
  a text file of the same stem.

  Args:
    folder: its path.
    bad: called with a line about each medium without a caption, caption without a medium, and line that is damaged.
    name: the end of the folder's path, with which names begin; nothing of it by default.
  """
  root = storage.path(folder)
  files = storage.files_below(root)
  there, used = {_key(file): os.fspath(file) for file in files}, set[str]()
  base = os.fspath(root).removesuffix(name)
  named = lambda file: os.path.join(name, os.fspath(file)[len(os.fspath(root)):].lstrip("/"))
  for metadata in (file for file in files if file.name == METADATA):
    yield from _listed(metadata, named, there, used, bad, base)
  for file in files:
    caption = file.with_suffix(".txt")
    if (medium := _MEDIA.get(file.suffix.lower())) and os.fspath(file) not in used:
      if _key(caption) in there:
        used.add(os.fspath(caption))
        text = decoded(storage.read_bytes(caption)).strip()
        yield Document(f"{named(file)}:1", text, fields={medium: named(file)}, folder=base)
      else:
        bad(f"{shown(named(file))} has no caption: write it to {shown(caption.name)} beside it, or to {METADATA}")
  for file in files:
    if file.suffix.lower() == ".txt" and os.fspath(file) not in used:
      bad(f"{shown(named(file))} has no image or sound of its name beside it: add one, or take it out")


def has_media(path: str) -> bool:
  """Whether a file of an input is a medium or lists some."""
  return medium_of(path) is not None or os.path.basename(path) == METADATA


def medium_of(path: str) -> str | None:
  """Whether a file is an "image" or an "audio", by its name; None for others."""
  return _MEDIA.get(os.path.splitext(path)[1].lower())


def read_file(path: str, name: str, bad: Callable[[str], None]) -> Iterator[Document]:
  """Yields the caption that a `.txt` beside an image or a sound has, with its name as a field."""
  caption = storage.path(os.path.splitext(path)[0] + ".txt")
  if (content := storage.read(caption)) is None:
    bad(f"{shown(name)} has no caption: write it to {shown(caption.name)} beside it, or to {METADATA}")
  else:
    yield Document(f"{name}:1", decoded(content).strip(), fields={str(medium_of(path)): name},
                   folder=path.removesuffix(name))


def _listed(metadata: pathlib.Path, named: Callable[[str | os.PathLike], str], there: Mapping[str, str],
            used: set[str], bad: Callable[[str], None], folder: str) -> Iterator[Document]:
  """The documents of a metadata file; `used` is given the media."""

  def document(place: str, record: dict[str, Any]) -> Document:
    keys = [key for key in ("image", "audio", "file_name") if isinstance(record.get(key), str)]
    text = record.pop("text", None)
    if len(keys) != 1 or not isinstance(text, str):
      raise ValueError(f"it has no \"text\" or not one file: write it as {_EXAMPLE}")
    text.encode()  # JSON can spell half a surrogate pair, which is no text.
    path = there.get(_key(os.path.join(os.path.dirname(os.fspath(metadata)), given := record.pop(keys[0]))))
    medium = keys[0] if keys[0] != "file_name" else _MEDIA.get(os.path.splitext(given)[1].lower())
    if path is None or not medium:
      raise ValueError(f"there is no image or sound {shown(given)}: correct its path, which counts from {METADATA}")
    used.add(path)
    return Document(place, text.strip(), fields={**record, medium: named(path)}, folder=folder)

  with metadata.open("rb") as lines:
    yield from json_lines.objects(named(metadata), lines, document, bad, _EXAMPLE)


def _key(path: str | os.PathLike) -> str:
  """The same for all ways to write a path."""
  return os.fspath(path) if storage.is_remote(path) else os.path.normpath(path)
