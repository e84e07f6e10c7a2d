"""Conversations in JSON-lines, on this machine or in a bucket, as a seqio source, and the preprocessor of such."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, Literal

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import gin
import numpy as np
import seqio
import tensorflow as tf

from gpt4x.data import chat_records, json_lines, named_files, objects
from gpt4x.data.bad_records import BadRecords
from gpt4x.data.chat_records import EXAMPLES, Kind, Record
from gpt4x.data.chat_template import ChatTemplate
from gpt4x.data.held_out import held_out, MANY, PERCENT
from gpt4x.data.objects import Stat
from gpt4x.data.record_source import RecordSource
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import one_line, require, UserError

READER = 1  # Raise it whenever other examples are found in the same files.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalChat:
  """Which JSON-lines make the data (`chat_records.py`).

  Attributes:
    files: a glob, or several, of paths or of URLs (`gs://`, `s3://`); `**` stands for folders of any depth.
    validation_files: globs of the validation split. Without them 5% of the records are held out, by a hash of the
      prompt, or of a conversation's first message.
    on_bad_record: `raise` ends a run at a record that cannot be used; `skip` leaves it out and counts it.
  """

  files: str | Sequence[str] = ()
  validation_files: str | Sequence[str] = ()
  on_bad_record: Literal["raise", "skip"] = "raise"

  def __post_init__(self):
    require(self, "'raise' or 'skip'", lambda policy: policy in ("raise", "skip"), "on_bad_record")

  def find(self) -> tuple[tuple[Stat, ...], tuple[Stat, ...]]:
    """The files for training and those for validation, in order of their names."""
    return named_files.find(self, "JSON-lines of conversations", "chats/*.jsonl")


class LocalChatSource(RecordSource):
  """Records of conversations, with the splits train and validation."""

  def __init__(self, kind: Kind, local: LocalChat | None = None):
    """Takes the files to read; None means gin's `LocalChat` at the time of reading."""
    super().__init__(splits=("train", "validation"))
    self._kind, self._local = kind, local

  def num_input_examples(self, split: str) -> int:
    return len(self.records(split))

  def fingerprint_parts(self) -> dict[str, Any]:
    """Every file with its size and its time or hash, what is held out, and the template."""
    local = self._local or LocalChat()
    train, validation = local.find()
    return {"files": train, "validation_files": validation, "held_out": (PERCENT, MANY),
            "reader": (READER, self._kind, local.on_bad_record), "template": ChatTemplate().read().text}

  def records(self, split: str, seed: int | None = None) -> list[tuple[str, str]]:
    """See RecordSource."""
    del seed
    local = self._local or LocalChat()
    train, validation = local.find()
    found = _read(validation if validation and split == "validation" else train, self._kind, local.on_bad_record)
    if not validation:
      out = held_out({group for group, *_ in found})
      found = tuple(one for one in found if (one[0] in out) == (split == "validation"))
    if not found:
      raise UserError(f"LocalChat.files = {local.files!r} leaves nothing for the split {split}: set"
                      " LocalChat.validation_files, or name more records")
    return [(place, line) for _, place, line in found]


@functools.lru_cache(maxsize=8)
def _read(files: tuple[Stat, ...], kind: Kind, policy: str) -> tuple[tuple[str, str, str], ...]:
  """(group, place, JSON) of the records of files."""
  bad, found = BadRecords(policy, "LocalChat.on_bad_record"), list[tuple[str, str, str]]()

  def record(place: str, line: dict[str, Any]) -> tuple[str, str, str]:
    return chat_records.parse(line, kind).group, place, json.dumps(line)

  for path, opened in objects.opened(files):
    try:
      with opened or open(path, "rb") as file:
        found += json_lines.objects(path, unpacked(file), record, bad, EXAMPLES[kind])
    except READ_ERRORS as error:
      raise UserError(f"cannot read {shown(path)} ({error}): mend it, or take it out of LocalChat.files") from error
  bad.report(len(found) + bad.count, "records")
  if not found:
    raise UserError(f"there are no records in {len(files)} file(s), {shown(files[0][0])} the first: write lines such as"
                    f" {EXAMPLES[kind]}")
  return tuple(found)


def chat_tokens(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
                sequence_length: Mapping[str, int] | None, kind: Kind = "answers") -> tf.data.Dataset:
  """A seqio preprocessor: {"record"}, JSON as `chat_records` has it, to {"targets", "weights"}.

  A token that the model is to write has weight 1. For 'preferences' a row has two sequences, the chosen one first, of
  numbers 1 and 2 in {"segments"}; both have to fit.
  """
  vocabulary = output_features["targets"].vocabulary
  template, room = ChatTemplate().read(), (sequence_length or {}).get("targets")

  def made(line: bytes, place: bytes) -> tuple[np.ndarray, ...]:
    try:
      record: Record = chat_records.parse(json.loads(line), kind)
      ids, weights, segments = chat_records.flat(chat_records.tokens(record, kind, template, vocabulary))
    except (ValueError, UserError) as error:
      raise UserError(f"{shown(place.decode('utf-8', 'surrogateescape'))}: {one_line(error)}") from error
    if kind == "preferences" and room is not None and len(ids) > room:
      raise UserError(f"{shown(place.decode('utf-8', 'surrogateescape'))}: both answers with their prompts are"
                      f" {len(ids)} tokens, and a row has {room}: raise TASK_FEATURE_LENGTHS, or take it out")
    return tuple(np.array(one, np.int32) for one in (ids, weights, segments))

  def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    found = tf.numpy_function(made, [example["record"], example.get("place", "a record")], [tf.int32] * 3)
    features = dict(zip(("targets", "weights", "segments"), (tf.ensure_shape(one, [None]) for one in found)))
    return features if kind == "preferences" else {name: features[name] for name in ("targets", "weights")}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


chat_tokens.writes_chats = True  # type: ignore[attr-defined]  # So a run keeps the template.
