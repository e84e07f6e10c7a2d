"""Spoken digits by one codec of 1 kb/s: what a decoder understands of them, and what one says.

FSDD has 1,500 recordings by six speakers at 8 kHz; indices 0 to 4 are test. A digit is recognised by kernel ridge
regression on log-mel loudness in twelve equal parts (`evaluation.features.timbre`), seen real training ones alone.

- `fsdd_transcribe`: how many of the test recordings get exactly their digit's name from a decoder that sees the codes.
  Ridge regression on the same features of the originals reaches 95.7.
- `fsdd_generate`: how many of 600 samples are recognised.
- `fsdd_generate_cas`: accuracy on the test recordings of the same recogniser when it has seen those samples alone.
  Its peer has seen as many draws from a Gaussian of each digit in the space of those features, with the 60 largest
  variances, as for images: the Gaussian is given the very space that it is judged in.
"""

from collections.abc import Iterator
import json
import pathlib
import sys

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import data, runs, speech

SAMPLES = 60  # Of each digit.
RANK = 60
GUIDANCE, TEMPERATURE = 3.0, 1.0


def rows(bench: runs.Bench) -> Iterator[Row]:
  plain, more = speech.write(bench, "digits")

  def measure(seed: int) -> dict[str, float]:
    codec = bench.codec(f"codec{seed}", "experiments/audio_codec.gin", SEED=seed, **plain, **speech.SELDOM)
    run = bench.train(f"run{seed}", "experiments/image_both_ways_tiny.gin", SEED=seed, **speech.BOTH_WAYS, **more,
                      **speech.SELDOM, **{"MediaTokens.audio": codec})
    found = {"fsdd_transcribe": 100 * bench.evaluate(run)["local_media_to_text/accuracy"],
             **judged(bench, *spoken(bench, run, seed))}
    print(found, file=sys.stderr, flush=True)
    return found

  found = bench.each_seed(measure)
  values = {name: [one[name] for one in found] for name in found[0]}
  yield runs.row("fsdd_transcribe", values["fsdd_transcribe"], "%", ">=", 95.7)
  yield runs.row("fsdd_generate", values["fsdd_generate"], "%", ">=", 90)
  yield runs.row("fsdd_generate_cas", values["fsdd_generate_cas"], "%", ">=",
                 round(float(np.mean(values["gaussian"])), 1))


def spoken(bench: runs.Bench, run: str, seed: int) -> tuple[list, np.ndarray]:
  """What `gpt4x generate` makes for the name of each digit, silence where it makes nothing; and the digits."""
  from gpt4x.media.files import sounds
  from gpt4x.media.medium import Audio
  folder = pathlib.Path(run, "spoken")
  printed = bench.gpt4x("generate", f"--model_dir={run}", *(f"--prompt={name}" for name in data.DIGITS),
                        f"--num_samples={SAMPLES}", "--batch_size=60", "--json", f"--output={folder / 'digit.wav'}",
                        f"--guidance={GUIDANCE}", f"--temperature={TEMPERATURE}", f"--seed={seed}", "--max_tokens=240")
  lines = [json.loads(line) for line in printed.splitlines()]
  heard = [sounds.read(line["files"][0]) if line["files"] else Audio(np.zeros(800, np.int16), 8000) for line in lines]
  return heard, np.array([data.DIGITS.index(line["prompt"]) for line in lines])


def judged(bench: runs.Bench, samples: list, labels: np.ndarray) -> dict[str, float]:
  """The samples by a recogniser of real recordings, real recordings by a recogniser of samples, and by Gaussians."""
  from gpt4x.evaluation import classification, features
  score = classification.classification_accuracy_score
  real, digits = speech.recordings(bench, "test")
  vectors, (train, seen) = features.timbre(real), speech.recordings(bench, "train")
  space = features.timbre(train)
  gaussian = np.mean([score(*classification.class_gaussians(space, seen, SAMPLES, RANK, draw), vectors, digits)
                      for draw in range(10)])
  return {"fsdd_generate": 100 * float(np.mean(speech.recogniser(bench)(samples) == labels)),
          "fsdd_generate_cas": 100 * score(features.timbre(samples), labels, vectors, digits),
          "gaussian": 100 * float(gaussian)}


if __name__ == "__main__":
  runs.main(rows)
