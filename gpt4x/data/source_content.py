"""What a key can know of a source that does not say when its data changes, such as a function that opens a file."""

import hashlib
from typing import Any, NamedTuple, TYPE_CHECKING

from gpt4x.data.task_examples import errors_of

if TYPE_CHECKING:
  import seqio

# Reading so much takes about a second where a Python generator makes the examples.
MOST_EXAMPLES, MOST_BYTES = 1000, 16 << 20
AGAIN = 100  # Examples that are read a second time, to see whether the source has an order.


class Content(NamedTuple):
  """The content of a source's split, as far as it was read.

  Attributes:
    digest: a hash of the examples read, whatever their order; empty if the next reading may meet others.
    unseen: what may change without another digest, for a message; empty if all examples were read.
  """

  digest: str
  unseen: str


def read_content(task: "seqio.Task", split: str) -> Content:
  """Reads the first examples of a task's source."""
  with errors_of(task, split):
    digests, whole = _read(task.source, split, MOST_EXAMPLES)
    if whole:
      return Content(_hash(sorted(digests)), "")
    again, _ = _read(task.source, split, min(AGAIN, len(digests)))
    if again == digests[:len(again)]:
      return Content(_hash(digests), f"behind its first {len(digests):,} examples")
    return Content("", "in a source that has another order each time")


def _read(source: Any, split: str, most: int) -> tuple[list[bytes], bool]:
  """(the hashes of up to `most` examples, whether these are all)."""
  import tensorflow as tf

  dataset = source.get_dataset(split=split, shuffle=False)
  spec, digests, size = repr(dataset.element_spec).encode(), list[bytes](), 0
  for example in dataset.take(most + 1):
    if len(digests) == most or size > MOST_BYTES:
      return digests, False
    parts = [tf.io.serialize_tensor(part).numpy() for part in tf.nest.flatten(example, expand_composites=True)]
    digests.append(hashlib.sha256(b"".join([spec, *parts])).digest())
    size += sum(map(len, parts))
  return digests, True


def _hash(digests: list[bytes]) -> str:
  return hashlib.sha256(b"".join(digests)).hexdigest()[:16]
