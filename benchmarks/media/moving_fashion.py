"""Videos to exact captions, and captions to videos that move as they say: Moving Fashion-MNIST (moving.py).

`media/moving_fashion_caption` is the share, in per cent, of videos made of test images whose caption, a garment, a
direction and a speed, is right to the letter. The garment is the hard part: a kernel ridge regression on the pixels of
the same 1,800 images at 20 x 20, upright in their place, names 84.3% of test images.

`media/moving_fashion_motion` is the share of generated videos that move as their caption says, direction and speed, by
phase correlation of their frames; eight motions are told apart, so 12.5% is chance.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

from benchmarks.harness import Row
from benchmarks.media import moving, runs

FRAMES = 5  # Three latent frames: the first frame alone, and two of two.
TRAIN, TEST = 14_400, 2_000
SAMPLES = 2  # Videos of each of the 80 captions.
TRANSFORMER = {"TransformerConfig.vocab_size": 1344, "TransformerConfig.num_layers": 4,
               "TransformerConfig.embed_dim": 96, "TransformerConfig.num_heads": 3, "TransformerConfig.mlp_dim": 384,
               "MediaTokens.sizes": 8}
TEXT, VIDEO = 30, 133  # Tokens at most.


def rows(bench: runs.Bench) -> Iterator[Row]:
  files = write(bench)
  codec = bench.codec("codec", "experiments/video_codec.gin", **files)
  tokens = {**files, **TRANSFORMER, "MediaTokens.video": codec}
  captions = bench.each_seed(lambda bench, seed: captioned(bench, seed, tokens))
  yield runs.row("moving_fashion_caption", captions, "%", ">=", 80.0)
  motions = bench.each_seed(lambda bench, seed: moved(bench, seed, tokens))
  yield runs.row("moving_fashion_motion", motions, "%", ">=", 90.0)


def write(bench: runs.Bench) -> dict[str, str]:
  """Videos of training images, and one of each of some test images."""
  sets = {"LocalMedia.files": moving.clips(bench.source, "train", TRAIN, FRAMES, mirror=True),
          "LocalMedia.validation_files": moving.clips(bench.source, "test", TEST, FRAMES)}
  return {name: str(moving.write(bench.folder, name.partition(".")[2], clips)) for name, clips in sets.items()}


def captioned(bench: runs.Bench, seed: int, bindings: dict[str, Any]) -> float:
  run = bench.train(f"caption{seed}", "experiments/image_classify_tiny.gin", SEED=seed, **bindings, **CAPTION)
  return 100 * runs.last_metrics(run)["local_media_to_text/accuracy"]


CAPTION = {"TASK_FEATURE_LENGTHS": {"inputs": VIDEO, "targets": TEXT}, "BATCH_SIZE": 16,
           "TRAIN_STEPS": 900, "EVAL_PERIOD": 900, "CHECKPOINT_PERIOD": 900}


def moved(bench: runs.Bench, seed: int, bindings: dict[str, Any]) -> float:
  run = bench.train(f"motion{seed}", "experiments/image_generate_tiny.gin", SEED=seed, **bindings, **MOTION)
  asked = [*itertools.product(moving.CLASSES, moving.DIRECTIONS, moving.SPEEDS)]
  drawn = bench.call(draw, run, [moving.caption(*one) for one in asked], SAMPLES, seed)
  right = [moving.motion(frames) == one[1:] for one, some in zip(asked, drawn) for frames in some]
  return 100 * sum(right) / len(right)


MOTION = {"TASK_FEATURE_LENGTHS": {"inputs": TEXT, "targets": VIDEO + 1}, "BATCH_SIZE": 16,
          "TRAIN_STEPS": 500, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": 500}


def draw(run: str, captions: Sequence[str], count: int, seed: int) -> list[list[Any]]:
  """The frames [5, 24, 24] of so many videos for each caption."""
  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output
  from gpt4x.inference.sampling import Sampling
  experiment = reading.saved_experiment(run)
  fps = experiment.data.vocabulary.codecs["video"].config.fps
  generator = Generator(run, experiment, sampling=Sampling(top_p=0.9),
                        output=Output("video", (moving.SIDE, moving.SIDE), FRAMES / fps))
  found = generator.complete(captions, num_samples=count, seed=seed, batch_size=80)
  frames = [generator.parts(one)[0].frames[..., 0] for one in found]
  return [frames[start:start + count] for start in range(0, len(frames), count)]


if __name__ == "__main__":
  runs.main(rows)
