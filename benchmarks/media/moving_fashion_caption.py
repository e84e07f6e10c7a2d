"""Videos to exact captions: Moving Fashion-MNIST (moving.py).

`media/moving_fashion_caption` is the share, in per cent, of videos of three frames, of 1,500 test images, whose
caption, a garment, a direction and a speed, is right to the letter. The garment is the hard part.
"""

from collections.abc import Iterator
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


def rows(bench: runs.Bench) -> Iterator[Row]:
  tokens = vocabulary(bench, files(bench, "long", 3600, 200, 5))
  short = files(bench, "short", 14_400, 1_500, 3)

  def captioned(seed: int) -> float:
    run = bench.train(f"caption{seed}", "experiments/image_classify_tiny.gin", SEED=seed,
                      **{**short, **tokens, **TRANSFORMER, **CAPTION})
    return 100 * runs.last_metrics(run)["local_media_to_text/accuracy"]

  yield runs.row("moving_fashion_caption", bench.each_seed(captioned), "%", ">=", 80.0)


def files(bench: runs.Bench, name: str, train: int, test: int, frames: int, captions: bool = True) -> dict[str, str]:
  """Videos of training images, and of test images, at most one of each."""
  found = {}
  for setting, split, count in (("files", "train", train), ("validation_files", "test", test)):
    clips = moving.clips(bench.source, split, count, frames, mirror=split == "train")
    found[f"LocalMedia.{setting}"] = str(moving.write(bench.folder / name, split, clips, captions))
  return found


def vocabulary(bench: runs.Bench, videos: dict[str, str]) -> dict[str, Any]:
  """A codec of these videos, and the words of their captions."""
  words = str(bench.folder / "words.model")
  bench.gpt4x("vocabulary", "--task=local_text_bytes", f"--size={PIECES}", f"--output={words}",
              **{"LocalText.files": videos["LocalMedia.files"]})
  return {"MediaTokens.video": bench.codec("codec", "experiments/video_codec.gin", **videos), "MediaTokens.text": words}


if __name__ == "__main__":
  runs.main(rows)
