"""Trains a small model to draw squares, discs and crosses when it is told their names, and lets it draw.

    python examples/draw.py                     # 200 steps, about two minutes on two CPU cores
    gpt4x generate --model_dir=runs/draw --prompt=disc --output=disc.png --guidance=2

It makes 600 pictures of 12 x 12 pixels with their names, in runs/draw_data, as the folder of anybody's own pictures
would be. The model sees a picture as one token a pixel, row by row; no codec has to be trained for that. It prints the
loss on pictures that it was not trained on, and writes drawings.png: a row for each name.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from gpt4x.commands import reading
from gpt4x.inference.generate import Generator
from gpt4x.inference.media import Output
from gpt4x.inference.sampling import Sampling
from gpt4x.media.files import images
from gpt4x.media.medium import Image
from gpt4x.training.loop import train
from gpt4x.training.metrics import read_metrics

NAMES = ("square", "disc", "cross")
SIDE = 12


def picture(name: str, draw: np.random.Generator) -> Image:
  """A white shape of some size, somewhere on black."""
  radius = draw.integers(2, 5)
  down, right = np.indices((SIDE, SIDE)) - draw.integers(radius, SIDE - radius, (2, 1, 1))
  inside = {"square": np.maximum(abs(down), abs(right)) <= radius,
            "disc": down**2 + right**2 <= radius**2,
            "cross": (np.minimum(abs(down), abs(right)) == 0) & (np.maximum(abs(down), abs(right)) <= radius)}[name]
  return Image((255 * inside[..., None]).astype(np.uint8))


def write_pictures(folder: pathlib.Path, count: int) -> None:
  """A folder of PNG files, and a JSON-lines file that says what each shows."""
  folder.mkdir(parents=True, exist_ok=True)
  draw, lines = np.random.default_rng(0), []
  for number in range(count):
    name = NAMES[number % len(NAMES)]
    images.write(picture(name, draw), folder / f"{number}.png")
    lines.append(json.dumps({"image": f"{number}.png", "text": name}))
  (folder / "names.jsonl").write_text("\n".join(lines) + "\n")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model_dir", default="runs/draw")
  parser.add_argument("--pictures", type=int, default=600)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--gin", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
  arguments = parser.parse_args()

  data = pathlib.Path(f"{arguments.model_dir}_data")
  write_pictures(data, arguments.pictures)
  config = reading.new_run(["experiments/image_generate_tiny.gin"], [
      f"LocalMedia.files='{data}/*.jsonl'",
      "MediaTokens.image='grey'",  # A pixel a token. A directory would be a codec's, with some codes for each patch.
      "TransformerConfig.vocab_size=640",  # 259 bytes, 16 specials, 64 sizes and 256 greys.
      "TransformerConfig.num_layers=4",
      f"TASK_FEATURE_LENGTHS={{'inputs': 8, 'targets': {SIDE * (SIDE + 1) + 5}}}",  # Row ends, sizes, begin and ends.
      f"TRAIN_STEPS={arguments.steps}", "BATCH_SIZE=16", "EVAL_PERIOD=100", "CHECKPOINT_PERIOD=100", *arguments.gin])
  status = train(arguments.model_dir, config)
  for line in read_metrics(arguments.model_dir):
    if line["split"] == "validation":
      print(f"step {line['step']}: {line['loss']:.3f} nats a token")

  # The run's directory has all that is needed, the vocabulary included. A tenth of the names were dropped in training,
  # so the model also knows pictures without a name: guidance counts twice what a name changes.
  generator = Generator(arguments.model_dir, reading.saved_experiment(arguments.model_dir),
                        output=Output("image", size=(SIDE, SIDE)), guidance=2.0, sampling=Sampling(top_p=0.95))
  drawn = [part.pixels for one in generator.complete(NAMES, num_samples=4) for part in generator.parts(one)]
  rows = [np.concatenate(drawn[start:start + 4], axis=1) for start in range(0, len(drawn), 4)]
  images.write(Image(np.kron(np.concatenate(rows), np.ones((8, 8, 1), np.uint8))), "drawings.png")
  print("wrote drawings.png")
  return status  # 0, or 75 after SIGTERM.


if __name__ == "__main__":
  sys.exit(main())
