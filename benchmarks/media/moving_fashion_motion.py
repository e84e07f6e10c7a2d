"""Captions to videos that move as they say: Moving Fashion-MNIST (moving.py).

`media/moving_fashion_motion` is the share of generated videos of five frames that move as their caption says, direction
and speed, by correlation of their frames (`moving.shift`). There are eight motions, so chance is 12.5.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

from benchmarks.harness import Row
from benchmarks.media import moving, runs
from benchmarks.media.moving_fashion_caption import files, LATENT, TEXT, TRANSFORMER, vocabulary

FRAMES = 5
MOTION = {"TASK_FEATURE_LENGTHS": {"inputs": TEXT, "targets": 5 + 3 * LATENT},
          "TRAIN_STEPS": 1000, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": 1000, "TransformerConfig.dropout_rate": 0.0}
SAMPLES = 2  # Videos of each caption.
TEMPERATURE, GUIDANCE = 0.4, 2.5


def rows(bench: runs.Bench) -> Iterator[Row]:
  videos = files(bench, "videos", 3600, 200, FRAMES)
  tokens = vocabulary(bench, videos)
  asked = [*itertools.product(moving.GARMENTS, moving.DIRECTIONS, moving.SPEEDS)]

  def moved(seed: int) -> float:
    run = bench.train(f"motion{seed}", "experiments/image_generate_tiny.gin", SEED=seed,
                      **{**videos, **tokens, **TRANSFORMER, **MOTION})
    drawn = bench.call(draw, run, [moving.caption(*one) for one in asked], seed)
    right = [moving.motion(frames) == one[1:] for one, some in zip(asked, drawn) for frames in some]
    return 100 * sum(right) / len(right)

  yield runs.row("moving_fashion_motion", bench.each_seed(moved), "%", ">=", 90.0)


def draw(run: str, captions: Sequence[str], seed: int) -> list[list[Any]]:
  """The frames [5, 24, 24] of SAMPLES videos for each caption."""
  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output
  from gpt4x.inference.sampling import Sampling
  experiment = reading.saved_experiment(run)
  fps = experiment.data.vocabulary.codecs["video"].config.fps
  generator = Generator(run, experiment, sampling=Sampling(TEMPERATURE), guidance=GUIDANCE,
                        output=Output("video", (moving.SIDE, moving.SIDE), FRAMES / fps))
  found = generator.complete(captions, num_samples=SAMPLES, seed=seed, batch_size=64)
  frames = [generator.parts(one)[0].frames[..., 0] for one in found]
  return [frames[start:start + SAMPLES] for start in range(0, len(frames), SAMPLES)]


if __name__ == "__main__":
  runs.main(rows)
