"""Spoken digits of a speaker whom nothing has heard: neither the decoder nor the codec.

Each of FSDD's six speakers is left out once, and the figure is the mean over all six of the share of his 250 recordings
that get exactly their digit's name. Regression on log-mel loudness in twelve parts reaches 73 (ridge), 72 (kernel).
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import data, runs, speech


def rows(bench: runs.Bench) -> Iterator[Row]:
  files, codecs = {}, {}
  for left_out in data.SPEAKERS:
    plain, files[left_out] = speech.write(bench, left_out, left_out)
    codecs[left_out] = bench.codec(f"codec_{left_out}", "experiments/audio_codec.gin", TRAIN_STEPS=3000, **plain,
                                   **speech.SELDOM)

  def measure(bench: runs.Bench, seed: int) -> float:
    found = []
    for left_out in data.SPEAKERS:
      run = bench.train(f"{left_out}{seed}", "experiments/image_both_ways_tiny.gin", SEED=seed, **speech.BOTH_WAYS |
                        files[left_out] | speech.SELDOM | {"MediaTokens.audio": codecs[left_out], "TRAIN_STEPS": 700})
      found.append(100 * bench.evaluate(run)["local_media_to_text/accuracy"])
    return float(np.mean(found))

  yield runs.row("fsdd_transcribe_unseen_speaker", bench.each_seed(measure), "%", ">=", 73)


if __name__ == "__main__":
  runs.main(rows)
