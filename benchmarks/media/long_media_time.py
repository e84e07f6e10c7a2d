"""What a token of a long video or sound costs, at four times the length of training.

`media/long_video_time` and `media/long_sound_time` are the time a token in the fourth quarter over that in the first,
of one video (moving.py) or one sound (FSDD) that is generated token by token, the median of rounds (`--seeds`). The
peer is the same of a model without memory, whose window is one latent frame. Every token attends to a window of the
latest positions, so all should be 1; a cache that grew would take more and more. The time does not depend on what was
learned, so training is short.
"""

from collections.abc import Iterator
import statistics
from typing import Any

from benchmarks.harness import Row
from benchmarks.media import moving, runs, speech
from benchmarks.media.moving_fashion_stream import FRAMES, MEMORY, STREAM, TRANSFORMER
from benchmarks.quickstart import mean_and_error

TIMES = 4
SECONDS = {"video": FRAMES / 10, "audio": 2.0}  # Of training: a video of ten frames a second; four digits or so.
STEPS = 20


def rows(bench: runs.Bench) -> Iterator[Row]:
  lines = moving.write(bench.folder, "train", moving.clips(bench.source, "train", 100, FRAMES), captions=False)
  sounds = speech.originals(bench, "digits") | {"TransformerConfig.vocab_size": 2368}
  for medium, name, files in (("video", "long_video_time", {"LocalMedia.files": str(lines)}),
                              ("audio", "long_sound_time", sounds)):
    yield row(name, {memory: times(bench, medium, files, memory) for memory in (MEMORY, 0)})


def row(name: str, found: dict[int, list[list[float]]]) -> Row:
  for memory, rounds in found.items():
    middle = [1000 * statistics.median(quarter) for quarter in zip(*rounds)]
    print(f"memory {memory}: ms a token in each quarter {', '.join(f'{one:.3f}' for one in middle)}", flush=True)
  ratios = {memory: [quarters[3] / quarters[0] for quarters in rounds] for memory, rounds in found.items()}
  value, peer = (statistics.median(ratios[memory]) for memory in (MEMORY, 0))
  return Row(f"media/{name}", value, "fourth quarter over first", peer, value / peer,
             error=mean_and_error(ratios[MEMORY])[1], goal="value <= 1.1")


def times(bench: runs.Bench, medium: str, files: dict[str, Any], memory: int) -> list[list[float]]:
  """Seconds a token in each quarter of what a model with so much memory makes, of each round."""
  name = f"{medium}{memory}"
  codec = bench.codec(f"codec_{name}", f"experiments/{medium}_codec.gin", **files | {"TRAIN_STEPS": STEPS})
  run = bench.train(name, "experiments/media_tiny.gin", **TRANSFORMER | STREAM | files | {
      "TRAIN_STEPS": STEPS, "EVAL_PERIOD": None, f"MediaTokens.{medium}": codec,
      "TransformerConfig.memory_length": memory, "TransformerConfig.eval_memory_length": memory})
  return bench.call(quarters, run, medium, bench.seeds)


def quarters(run: str, medium: str, rounds: int) -> list[list[float]]:
  """Seconds a token in each quarter of a medium, of each round."""
  import time

  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output
  experiment = reading.saved_experiment(run)
  size = {"size": (moving.SIDE, moving.SIDE)} if medium == "video" else {}
  generator = Generator(run, experiment, output=Output(medium, seconds=TIMES * SECONDS[medium], **size))
  found = []
  for _ in range(1 + rounds):
    stamps = []
    for _ in generator.stream(""):  # A piece is 32 tokens, but for the last.
      stamps.append(time.perf_counter())
    steps = [(after - before) / 32 for before, after in zip(stamps[:-2], stamps[1:-1])]
    cuts = [round(len(steps) * part / 4) for part in range(5)]
    found.append([statistics.median(steps[begin:end]) for begin, end in zip(cuts, cuts[1:])])
  return found[1:]  # The first compiles.


if __name__ == "__main__":
  runs.main(rows)
