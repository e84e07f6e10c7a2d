"""Videos as streams, Moving Fashion-MNIST (moving.py): what memory is worth, and the next frame.

`media/memory_helps`: bits a video token on test videos that a memory of three latent frames saves against none, paired
by seed. Segments are one latent frame long, so without memory a model never sees the frame before.

`media/moving_fashion_next`: PSNR in dB of the next frame of test videos, as the model with memory goes on from seven
frames by its likeliest tokens. The peer is the better of copying the last frame and of extrapolating linearly,
2 f(t) - f(t - 1). One that knows how the video moves, and that what leaves comes back, has no error at all: no figure
for learning pixels, which is why it is no peer. What the codec loses is in our figure.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import moving, runs
from benchmarks.media.moving_fashion_caption import files, LATENT
from benchmarks.quickstart import mean_and_error

FRAMES, GIVEN = 9, 7
TEST = 400
TRANSFORMER = {"TransformerConfig.vocab_size": 592, "TransformerConfig.num_layers": 3,
               "TransformerConfig.embed_dim": 64, "TransformerConfig.num_heads": 2, "TransformerConfig.mlp_dim": 256,
               "MediaTokens.sizes": 8}
STREAM = {"TASK_FEATURE_LENGTHS": {"targets": LATENT}, "BATCH_SIZE": 16, "TRAIN_STEPS": 1200, "EVAL_PERIOD": 1200,
          "EVAL_STEPS": None, "CHECKPOINT_PERIOD": 1200}
MEMORY = 3 * LATENT


def rows(bench: runs.Bench) -> Iterator[Row]:
  videos = files(bench, "videos", 3600, TEST, FRAMES, captions=False)
  codec = bench.codec("codec", "experiments/video_codec.gin", **videos)
  tokens = {**videos, **TRANSFORMER, **STREAM, "MediaTokens.video": codec}
  clips = list(moving.clips(bench.source, "test", TEST, FRAMES))
  truth = [clip.frames[GIVEN] for clip in clips]

  def trained(seed: int) -> tuple[float, float]:
    run = {memory: bench.train(f"memory{memory}_{seed}", "experiments/media_tiny.gin", SEED=seed, **{
        **tokens, "TransformerConfig.memory_length": memory, "TransformerConfig.eval_memory_length": memory})
           for memory in (MEMORY, 0)}
    nats = {memory: runs.last_metrics(run[memory])["loss_video"] for memory in run}
    print(f"seed {seed}: nats a video token with memory {nats[MEMORY]:.3f}, without {nats[0]:.3f}", flush=True)
    guesses = bench.call(next_frames, run[MEMORY], [clip.frames[:GIVEN] for clip in clips])
    return (nats[0] - nats[MEMORY]) / np.log(2), psnr(guesses, truth)

  gained, decibels = zip(*bench.each_seed(trained))
  value, error = mean_and_error(gained)
  yield Row("media/memory_helps", value, "bits/token gained", error=error, goal=f"value >= {2 * error:.3f}")
  plain = [(clip.frames[GIVEN - 1], clip.frames[GIVEN - 2]) for clip in clips]
  copies = psnr([last for last, _ in plain], truth)
  lines = psnr([np.clip(2.0 * last - before, 0, 255) for last, before in plain], truth)
  print(f"copied {copies:.2f} dB, extrapolated {lines:.2f} dB", flush=True)
  yield runs.row("moving_fashion_next", decibels, "dB", ">=", round(max(copies, lines), 2))


def next_frames(run: str, videos: list[np.ndarray]) -> list[np.ndarray]:
  """The frame [H, W] that a model takes to come after each video [T, H, W], T odd."""
  from gpt4x.commands import reading
  from gpt4x.inference.generate import Generator
  from gpt4x.inference.media import Output, Prompt
  from gpt4x.inference.sampling import Sampling
  from gpt4x.media.medium import Video
  experiment = reading.saved_experiment(run)
  vocabulary: Any = experiment.data.vocabulary
  generator = Generator(run, experiment, sampling=Sampling(temperature=0.0), output=Output(
      "video", seconds=(len(videos[0]) + 2) / vocabulary.codecs["video"].config.fps))
  ids = [vocabulary.encode_parts([Video(frames[..., None], 10.0)]) for frames in videos]
  prompts = [Prompt("", one[:-1].tolist()) for one in ids]  # All but the end of the video.
  found = generator.complete(prompts, max_tokens=LATENT, batch_size=50)
  return [vocabulary.decode_parts([*prompt.ids, *one.tokens])[0].frames[len(frames), ..., 0]
          for prompt, one, frames in zip(prompts, found, videos)]


def psnr(guesses: list[np.ndarray], frames: list[np.ndarray]) -> float:
  """In dB, of the mean squared error over all frames."""
  return float(10 * np.log10(255**2 / np.mean(np.square(np.subtract(guesses, frames, dtype=float)))))


if __name__ == "__main__":
  runs.main(rows)
