"""Spoken digits of a speaker whom nothing has heard: neither the decoder nor the codec.

Each of FSDD's six speakers is left out once, and the figure is the mean over all six of the share of his 250 recordings
that get exactly their digit's name; its error is that of a mean over six speakers. Regression on log-mel loudness in
twelve parts reaches 73 (ridge), 72 (kernel).
"""

from collections.abc import Iterator
import itertools

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import data, runs, speech


def rows(bench: runs.Bench) -> Iterator[Row]:
  files = {speaker: speech.write(bench, speaker, speaker) for speaker in data.SPEAKERS}

  def codec(speaker: str) -> str:
    _, more = files[speaker]  # Of a codec of the recordings as they are, an unheard voice loses more.
    return bench.codec(f"codec_{speaker}", "experiments/audio_codec.gin", TRAIN_STEPS=3000, **more, **speech.SELDOM)

  codecs = dict(zip(data.SPEAKERS, bench.each(data.SPEAKERS, codec)))

  def transcribed(fold: tuple[str, int]) -> float:
    speaker, seed = fold
    _, more = files[speaker]
    run = bench.train(f"{speaker}{seed}", "experiments/image_both_ways_tiny.gin", SEED=seed, **speech.BOTH_WAYS |
                      more | speech.SELDOM | {"MediaTokens.audio": codecs[speaker], "TRAIN_STEPS": 700})
    right = 100 * bench.evaluate(run)["local_media_to_text/accuracy"]
    print(f"{speaker}, seed {seed}: {right:.1f}", flush=True)
    return right

  found = bench.each(itertools.product(data.SPEAKERS, range(bench.seeds)), transcribed)
  speakers = np.reshape(found, (len(data.SPEAKERS), bench.seeds)).mean(1).tolist()
  yield runs.row("fsdd_transcribe_unseen_speaker", speakers, "%", ">=", 73)


if __name__ == "__main__":
  runs.main(rows)
