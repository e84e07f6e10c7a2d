"""Videos to exact captions, and captions to videos that move as they say: Moving Fashion-MNIST (moving.py).

`media/moving_fashion_caption` is the share, in per cent, of videos of three frames, of 1,500 test images, whose
caption, a garment, a direction and a speed, is right to the letter.

`media/moving_fashion_motion` is the share of generated videos of five frames that move as their caption says, direction
and speed, by phase correlation of their frames. There are eight motions, so chance is 12.5.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

from benchmarks.harness import Row
from benchmarks.media import moving, runs

PIECES = 360  # Of the text: every word but t-shirt is one.
TRANSFORMER = {"TransformerConfig.vocab_size": 624, "TransformerConfig.num_layers": 3,
               "TransformerConfig.embed_dim": 64, "TransformerConfig.num_heads": 2, "TransformerConfig.mlp_dim": 256,
               "MediaTokens.sizes": 8, "BATCH_SIZE": 16}
TEXT, LATENT = 8, 43  # Tokens of a caption at most; of a latent frame, that is the first frame, or two.
CAPTION = {"TASK_FEATURE_LENGTHS": {"inputs": 4 + 2 * LATENT, "targets": TEXT},
           "TRAIN_STEPS": 2000, "EVAL_PERIOD": 2000, "CHECKPOINT_PERIOD": 2000, "TransformerConfig.dropout_rate": 0.15}
MOTION = {"TASK_FEATURE_LENGTHS": {"inputs": TEXT, "targets": 5 + 3 * LATENT},
          "TRAIN_STEPS": 1500, "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": 1500}
SAMPLES = 3  # Videos of each caption.


def rows(bench: runs.Bench) -> Iterator[Row]:
  """The codec and the words are shared."""
  long = files(bench, "long", 3600, 200, 5)
  codec = bench.codec("codec", "experiments/video_codec.gin", **long)
  words = str(bench.folder / "words.model")
  bench.gpt4x("vocabulary", "--task=local_text_bytes", f"--size={PIECES}", f"--output={words}",
              **{"LocalText.files": long["LocalMedia.files"]})
  tokens = {**TRANSFORMER, "MediaTokens.video": codec, "MediaTokens.text": words}
  short = files(bench, "short", 14_400, 1_500, 3)
  captions = bench.each_seed(lambda bench, seed: captioned(bench, seed, {**short, **tokens}))
  yield runs.row("moving_fashion_caption", captions, "%", ">=", 80.0)
  motions = bench.each_seed(lambda bench, seed: moved(bench, seed, {**long, **tokens}))
  yield runs.row("moving_fashion_motion", motions, "%", ">=", 90.0)


def files(bench: runs.Bench, name: str, train: int, test: int, frames: int, captions: bool = True) -> dict[str, str]:
  """Videos of training images, and of test images, at most one of each."""
  found = {}
  for setting, split, count in (("files", "train", train), ("validation_files", "test", test)):
    clips = moving.clips(bench.source, split, count, frames, mirror=split == "train")
    found[f"LocalMedia.{setting}"] = str(moving.write(bench.folder / name, split, clips, captions))
  return found


def captioned(bench: runs.Bench, seed: int, bindings: dict[str, Any]) -> float:
  run = bench.train(f"caption{seed}", "experiments/image_classify_tiny.gin", SEED=seed, **{**bindings, **CAPTION})
  return 100 * runs.last_metrics(run)["local_media_to_text/accuracy"]


def moved(bench: runs.Bench, seed: int, bindings: dict[str, Any]) -> float:
  run = bench.train(f"motion{seed}", "experiments/image_generate_tiny.gin", SEED=seed, **{**bindings, **MOTION})
  asked = [*itertools.product(moving.GARMENTS, moving.DIRECTIONS, moving.SPEEDS)]
  drawn = bench.call(draw, run, [moving.caption(*one) for one in asked], seed)
  right = [moving.motion(frames) == one[1:] for one, some in zip(asked, drawn) for frames in some]
  return 100 * sum(right) / len(right)


def draw(run: str, captions: Sequence[str], seed: int) -> list[list[Any]]:
  """The frames [5, 24, 24] of SAMPLES videos for each caption."""
  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output
  from gpt4x.inference.sampling import Sampling
  experiment = reading.saved_experiment(run)
  fps = experiment.data.vocabulary.codecs["video"].config.fps
  generator = Generator(run, experiment, sampling=Sampling(top_p=0.9),
                        output=Output("video", (moving.SIDE, moving.SIDE), 5 / fps))
  found = generator.complete(captions, num_samples=SAMPLES, seed=seed, batch_size=64)
  frames = [generator.parts(one)[0].frames[..., 0] for one in found]
  return [frames[start:start + SAMPLES] for start in range(0, len(frames), SAMPLES)]


if __name__ == "__main__":
  runs.main(rows)
