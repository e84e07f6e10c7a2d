"""What a codec of 1 kb/s loses of spoken digits: points of accuracy that 300 test recordings have less after it.

A digit is recognised by kernel ridge regression on log-mel loudness in twelve parts (`evaluation.features.timbre`)
that has seen the 1,200 real training recordings, as the codec has; 97.0% of the test recordings as they are.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import runs, speech


def rows(bench: runs.Bench) -> Iterator[Row]:
  files = speech.originals(bench, "digits")

  def measure(seed: int) -> float:
    return lost(bench, bench.codec(f"codec{seed}", "experiments/audio_codec.gin", SEED=seed, **files, **speech.SELDOM))

  yield runs.row("fsdd_codec", bench.each_seed(measure), "points", "<=", 2.0)


def lost(bench: runs.Bench, directory: str) -> float:
  """The points of accuracy that the test recordings lose by a codec."""
  from gpt4x.media import codec_files
  from gpt4x.media.medium import Audio
  sounds, labels = speech.recordings(bench, "test")
  codec = codec_files.load(directory)
  decoded = codec.decode_all(codec.encode_all(sounds))
  decoded = [Audio(made.samples[:len(sound.samples)], sound.rate) for made, sound in zip(decoded, sounds)]
  recognised = speech.recogniser(bench)
  return 100 * float(np.mean(recognised(sounds) == labels) - np.mean(recognised(decoded) == labels))


if __name__ == "__main__":
  runs.main(rows)
