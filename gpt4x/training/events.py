"""TensorBoard's event files: what was written of steps that a resumed run takes again is removed from them."""

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import tempfile
from typing import Any

import numpy as np

from gpt4x import storage
from gpt4x.checkpoints.integrity import reason
from gpt4x.errors import UserError
from gpt4x.media.medium import Audio

_FILES = "events.out.tfevents.*"


class Events:
  """Appends scalars, pictures and sounds to an event file of a directory, which is made by the first of them.

  TensorFlow's own way into a bucket has other credentials than ours, and none into S3: events for a bucket are written
  to a directory of this machine, from which `flush` uploads them.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._temporary = tempfile.TemporaryDirectory() if storage.is_remote(directory) else None
    self._local = pathlib.Path(self._temporary.name) if self._temporary else directory
    self._writer: Any = None  # Opened late, for TensorFlow takes seconds to import.

  def write(self, step: int, values: Mapping[str, float]) -> None:
    with np.errstate(over="ignore"):  # TensorBoard's numbers are float32: what is too large for them is infinite.
      scalars = {name: np.float32(value) for name, value in values.items()}
    with self._opened() as writer:
      writer.write_scalars(step, scalars)

  def show(self, step: int, name: str, picture: np.ndarray, sounds: Mapping[str, Audio]) -> None:
    with self._opened() as writer:
      writer.write_images(step, {name: picture[None]})
      for number, sound in sounds.items():
        samples = sound.samples[None, :, None].astype(np.float32) / 32768
        writer.write_audios(step, {f"{name}/{number}": samples}, sample_rate=sound.rate)

  @contextlib.contextmanager
  def _opened(self) -> Iterator[Any]:
    """A writer, whose writings are in the file at the end."""
    if self._writer is None:
      from clu import metric_writers
      self._writer = metric_writers.SummaryWriter(str(self._local))
    import tensorflow as tf
    try:
      yield self._writer
      self._writer.flush()  # A killed run has written all that is in metrics.jsonl.
    except tf.errors.OpError as error:
      self._writer = None  # It would fail again as it closes.
      raise UserError(f"TensorBoard's events in {self._directory} cannot be written ({reason(error)}): free or unlock"
                      " the model directory and start again") from error

  def flush(self) -> None:
    """Returns when all that was written is in the bucket, if it is one."""
    if self._temporary is not None:
      for path in self._local.glob(_FILES):
        storage.upload(path, self._directory / path.name)

  def truncate(self, step: int) -> None:
    """Removes what was written after `step`, so that readers of the files find each step once."""
    if self._temporary is None:
      self._truncate(self._local, step)
      return
    with storage.local_copy(self._directory, _FILES) as copy:
      for path in self._truncate(copy, step):
        storage.upload(path, self._directory / path.name)

  def _truncate(self, directory: pathlib.Path, step: int) -> list[pathlib.Path]:
    """The files that it has changed."""
    changed = []
    for path in sorted(directory.glob(_FILES)):
      import tensorflow as tf
      from tensorflow.core.util.event_pb2 import Event
      kept, dropped = [], False
      with contextlib.suppress(tf.errors.DataLossError):  # The last record of a killed run may be half written.
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
          event = Event.FromString(record)
          late = event.HasField("summary") and event.step > step
          dropped |= late
          if not late:
            kept.append(record)
      if dropped:
        temporary = path.with_name(f".{path.name.replace('tfevents', 'rewritten')}")  # No name that TensorBoard reads.
        with tf.io.TFRecordWriter(str(temporary)) as writer:
          for record in kept:
            writer.write(record)
        temporary.replace(path)
        changed.append(path)
    return changed

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
    if self._temporary is not None:
      self._temporary.cleanup()
