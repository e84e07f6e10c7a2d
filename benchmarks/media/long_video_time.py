"""What a token of a long video costs: Moving Fashion-MNIST (moving.py) at four times the length of training.

`media/long_video_time` is the time a token in the fourth quarter over that in the first, of one video that is generated
token by token, the median of rounds (`--seeds`). The peer is the same of a model without memory, whose window is one
latent frame. Every token attends to a window of the latest positions, so both should be 1; a cache that grew would take
more and more. The time does not depend on what was learned, so training is short.
"""

from collections.abc import Iterator
import statistics

from benchmarks.harness import Row
from benchmarks.media import moving, runs
from benchmarks.media.moving_fashion_stream import FRAMES, MEMORY, STREAM, TRANSFORMER
from benchmarks.quickstart import mean_and_error

TIMES = 4
STEPS = 20


def rows(bench: runs.Bench) -> Iterator[Row]:
  lines = moving.write(bench.folder, "train", moving.clips(bench.source, "train", 100, FRAMES), captions=False)
  files = {"LocalMedia.files": str(lines)}
  codec = bench.codec("codec", "experiments/video_codec.gin", **files, TRAIN_STEPS=STEPS)
  found = {}
  for memory in (MEMORY, 0):
    run = bench.train(f"memory{memory}", "experiments/media_tiny.gin", **files, **TRANSFORMER, **STREAM | {
        "TRAIN_STEPS": STEPS, "EVAL_PERIOD": None, "MediaTokens.video": codec,
        "TransformerConfig.memory_length": memory, "TransformerConfig.eval_memory_length": memory})
    found[memory] = bench.call(quarters, run, bench.seeds)
    middle = [1000 * statistics.median(quarter) for quarter in zip(*found[memory])]
    print(f"memory {memory}: ms a token in each quarter {', '.join(f'{one:.3f}' for one in middle)}", flush=True)
  ratios = {memory: [times[3] / times[0] for times in rounds] for memory, rounds in found.items()}
  value, peer = (statistics.median(ratios[memory]) for memory in (MEMORY, 0))
  yield Row("media/long_video_time", value, "fourth quarter over first", peer, value / peer,
            error=mean_and_error(ratios[MEMORY])[1], goal="value <= 1.1")


def quarters(run: str, rounds: int) -> list[list[float]]:
  """Seconds a token in each quarter of a video, of each round."""
  import time

  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output
  experiment = reading.saved_experiment(run)
  fps = experiment.data.vocabulary.codecs["video"].config.fps
  generator = Generator(run, experiment, output=Output(
      "video", (moving.SIDE, moving.SIDE), TIMES * FRAMES / fps))
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
