"""TensorBoard shows each step of a run once, however often it was taken."""

import math

import numpy as np
import pytest
import tensorflow as tf

from gpt4x.errors import UserError
from gpt4x.evaluation.contact_sheet import Cell
from gpt4x.evaluation.gallery import Gallery
from gpt4x.media.medium import Audio, Image
from gpt4x.training.metrics import MetricsWriter
from gpt4x.training.trackers.tensorboard import TensorBoard


def as_tensorboard(folder):
  """{tag: [(step, value)]} as TensorBoard reads a folder."""
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
  events = EventAccumulator(str(folder), {"tensors": 0})  # All of them.
  events.Reload()
  # In the order of steps, as it draws them; files of the same second have no order.
  return {tag: sorted((event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag))
          for tag in events.Tags()["tensors"]}


def as_written(folder):
  """{tag: [(step, value)]} of all files, one after the other, with nothing of TensorBoard's in between."""
  found = {}
  for path in sorted(folder.glob("*tfevents*")):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
  return found


def start(folder, step):
  writer = MetricsWriter(str(folder))
  writer.start([TensorBoard()], step)
  return writer


def write(folder, steps, close=True, **metrics):
  writer = start(folder, min(steps) - 1)
  for step in steps:
    writer.write(step, "train", {"loss": 1.0 / step} | metrics)
  if close:
    writer.close()
  return writer


@pytest.mark.parametrize("read", [as_tensorboard, as_written])
def test_steps_that_are_taken_again(tmp_path, read):
  """Over three starts, the second of which was killed: with a half-written record, and nothing closed."""
  curve = lambda steps: {"train/loss": [(step, float(np.float32(1.0 / step))) for step in steps]}
  write(tmp_path, range(1, 9))
  start(tmp_path, 5)
  assert read(tmp_path) == curve(range(1, 6))
  killed = write(tmp_path, range(6, 12), close=False)
  assert read(tmp_path) == curve(range(1, 12)), "what is in metrics.jsonl is in the events"
  newest = max(tmp_path.glob("*tfevents*"), key=lambda path: path.stat().st_mtime_ns)
  newest.write_bytes(newest.read_bytes()[:-3])
  writer = start(tmp_path, 8)
  for step in range(9, 13):
    writer.write(step, "train", {"loss": 1.0 / step})
  writer.close()
  assert read(tmp_path) == curve(range(1, 13))
  start(tmp_path, -1)  # A run that starts anew, for it had not saved.
  assert read(tmp_path) == {}
  del killed


def test_what_is_kept_is_left_as_it_is(tmp_path):
  write(tmp_path, range(1, 4))
  [path] = tmp_path.glob("*tfevents*")
  before = path.read_bytes(), path.stat().st_ino
  start(tmp_path, 3)
  assert (path.read_bytes(), path.stat().st_ino) == before
  assert sorted(found.name for found in tmp_path.iterdir()) == sorted([path.name, "metrics.jsonl"])


@pytest.mark.parametrize("value, shown", [
    (1e300, math.inf), (-1e39, -math.inf), (float("inf"), math.inf), (3e38, 3e38)])
def test_what_is_too_large_for_tensorboard_is_infinite(tmp_path, value, shown):
  """As the perplexity of a loss above 88 nats."""
  write(tmp_path, [1], perplexity=value)
  [(step, found)] = as_tensorboard(tmp_path)["train/perplexity"]
  assert step == 1 and found == pytest.approx(shown, rel=1e-6)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  writer = write(tmp_path, [1], close=False)

  def full():
    raise tf.errors.OutOfRangeError(None, None, f"{tmp_path}/events.out.tfevents.1; File too large\nCould not flush")

  [(_, events)] = writer._trackers._open
  monkeypatch.setattr(events._writer, "flush", full)
  with pytest.raises(UserError, match="events in .* cannot be written .file too large.") as error:
    writer.write(2, "train", {"loss": 1.0})
  assert "\n" not in str(error.value)
  writer.close()  # Does not fail again.


def shown_in(folder):
  """{tag: (plugin, [(step, content)] in the order of steps)} of pictures and sounds."""
  found = {}
  for path in sorted(folder.glob("*tfevents*")):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        kind = value.metadata.plugin_data.plugin_name or found[value.tag][0]
        if kind in ("images", "audio"):
          content = tf.make_ndarray(value.tensor).ravel().tolist()
          found.setdefault(value.tag, (kind, []))[1].append((event.step, content))
  # Names of files that one second made do not sort as they were made.
  return {tag: (kind, sorted(entries, key=lambda entry: entry[0])) for tag, (kind, entries) in found.items()}


def test_pictures_and_sounds_of_steps_that_are_taken_again(tmp_path):
  """Each is there once, and is what was shown."""
  def show(steps, start_at):
    writer = start(tmp_path, start_at)
    for step in steps:
      writer.write(step, "validation", {"loss": 1.0})
      writer.show(step, "validation", gallery(step))
    writer.close()

  def gallery(step):
    sound = Audio(np.full(400, 30 * step, np.int16), 8000)
    return Gallery([Cell(f"step {step}", [Image(np.full((8, 8, 1), step, np.uint8))]), Cell("beep", [sound])])

  show((1, 2, 3), -1)
  show((3, 4), 2)  # Killed before step 3 was saved.
  found = shown_in(tmp_path)
  assert {tag: (kind, [step for step, _ in entries]) for tag, (kind, entries) in found.items()} == {
      "validation/samples": ("images", [1, 2, 3, 4]), "validation/samples/001": ("audio", [1, 2, 3, 4])}
  for step, (*_, png) in found["validation/samples"][1]:
    np.testing.assert_array_equal(tf.io.decode_png(png).numpy(), gallery(step).sheet.pixels)
  for step, (wav, *_) in found["validation/samples/001"][1]:
    samples, rate = tf.audio.decode_wav(wav)
    assert rate == 8000 and np.round(samples.numpy() * 32768).ravel().tolist() == [30 * step] * 400
  assert sorted(path.name for path in (tmp_path / "samples" / "step_4").iterdir()) == ["001.wav", "contact_sheet.png"]


def test_nothing_to_show_is_not_shown(tmp_path):
  writer = start(tmp_path, -1)
  writer.show(1, "validation", Gallery([]))
  writer.close()
  assert [path.name for path in tmp_path.iterdir()] in ([], ["metrics.jsonl"])
