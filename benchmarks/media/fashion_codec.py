"""A codec of Fashion-MNIST's pictures, and what a decoder of its codes draws: six rows, of the same models.

The codec learns from the 1,800 training images at hand, moved and mirrored, and codes the 4,400 test images: 49 codes
of 1,000, 488 bits. The decoder learns to make those codes from the names of the classes.

  image_codec            PSNR of the test images, in dB; the first working codec of this size had 23.5
  image_codec_used       the share of the codes that they use, in per cent
  image_codec_rate       dB above transform coding (PCA, a uniform quantiser, an ideal entropy code) at as many bits as
                         the decoder needs for an image's codes, and log2(10) for its class
  fashion_generate       the classification accuracy score of samples, in per cent: a classifier that has seen samples
                         alone names the test images. A Gaussian of rank 60 for each class has 78.2, real images 85.9
  fashion_generate_illegal
                         of 10,000 samples those that are no whole image of 28 x 28 pixels
  fashion_generate_nearest
                         how far samples are from the nearest training image, over how far test images are
"""

from collections.abc import Iterator
import math
import statistics
from typing import Any

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import data, fashion, runs

GUIDANCE, TEMPERATURE = 1.5, 1.0
SAMPLES = 10_000  # Of all seeds together.
CODES = 49
SPAN = 60  # Ids of an image: codes, ends of rows, sizes, begin and end.
MOST_JUDGED = 3000
DRAW: dict[str, Any] = fashion.DECODER | {
    "TASK_FEATURE_LENGTHS": {"inputs": 14, "targets": 61}, "TRAIN_STEPS": 1200, "EVAL_PERIOD": None,
    "CHECKPOINT_PERIOD": 1200}


def rows(bench: runs.Bench) -> Iterator[Row]:
  fashion.write(bench)
  fashion.write_moved(bench, "draw", originals=4, copies=4, said="moved ")
  share = -(-SAMPLES // bench.seeds // 10) * 10
  found = bench.each_seed(lambda bench, seed: measure(bench, seed, share))
  values = {name: [one[name] for one in found] for name in found[0]}
  yield runs.row("image_codec", values["psnr"], "dB", ">=", 23.5)
  yield runs.row("image_codec_used", values["codes_used"], "%", ">=", 95)
  pca = statistics.mean(values["pca"])
  yield runs.row("image_codec_rate", values["above"], f"dB above PCA, which has {pca:.2f} at the"
                 f" {statistics.mean(values['bits']):.0f} bits an image", ">=", 0)
  yield runs.row("fashion_generate", values["cas"], "%", ">=", 78.2)
  illegal = sum(values["illegal"])
  yield Row("media/fashion_generate_illegal", illegal, f"of {share * bench.seeds:,} samples", goal="value < 1")
  yield runs.row("fashion_generate_nearest", values["nearest"], "x the distance of test images", ">=", 0.9)


def measure(bench: runs.Bench, seed: int, samples: int) -> dict[str, float]:
  """The numbers of one seed, by name."""
  codec = fashion.codec(bench, seed)
  of_codec = runs.last_metrics(f"{codec}_run")
  run = bench.train(f"draw{seed}", "experiments/image_generate_tiny.gin", **DRAW, **fashion.files(bench, "draw"),
                    **{"MediaTokens.image": codec, "SEED": seed})
  nats = bench.evaluate(run)["loss_image"]
  bits = nats / math.log(2) * CODES + math.log2(len(data.CLASSES))
  pca = pca_psnr(bench.source, bits)
  return {"psnr": of_codec["psnr"], "codes_used": 100 * of_codec["codes_used"], "bits": bits, "pca": pca,
          "above": of_codec["psnr"] - pca} | bench.call(of_samples, bench.source, run, seed, samples)


def pca_psnr(source: str, bits: float) -> float:
  """The PSNR of test images by transform coding at so many bits an image, in dB.

  Its entropy code has the frequencies of the test images themselves, which no real one would.
  """
  (train, _), (test, _) = (data.fashion(source, split) for split in ("train", "test"))
  seen, pixels = (images.reshape(len(images), -1).astype(np.float64) for images in (train, test))
  mean = seen.mean(0)
  _, _, components = np.linalg.svd(seen - mean, full_matrices=False)
  coefficients, points = (pixels - mean) @ components.T, []
  for step in np.geomspace(2000, 150, 12):
    whole = np.round(coefficients / step)
    made = np.clip(mean + whole * step @ components, 0, 255)
    points.append((sum(map(_entropy, whole.T)), 10 * np.log10(255**2 / np.mean((made - pixels)**2))))
  return float(np.interp(bits, *zip(*points)))


def _entropy(symbols: np.ndarray) -> float:
  """In bits, by the symbols' own frequencies."""
  _, counts = np.unique(symbols, return_counts=True)
  shares = counts / len(symbols)
  return float(-np.sum(shares * np.log2(shares)))


def of_samples(source: str, run: str, seed: int, count: int) -> dict[str, float]:
  """What so many samples of a run are worth, as many for each class."""
  from gpt4x.commands import reading
  from gpt4x.evaluation import classification, features
  from gpt4x.evaluation.media import nearest_distances
  from gpt4x.evaluation.samples import Example, MediaSampler
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(run)
  vocabulary = experiment.data.vocabulary
  sampler = MediaSampler(experiment, "validation", guidance=GUIDANCE, temperature=TEMPERATURE, seed=seed,
                         batch_size=200)
  prompts = [tuple(vocabulary.encode(name)) for name in data.CLASSES]
  room = np.zeros(SPAN, np.int32)  # So many ids may be drawn, and one more.
  _, params = experiment.restore_params(run, Partitioner(num_devices=1))
  drawn = sampler.draw(params, [Example(prompts[i % len(prompts)], room, "image") for i in range(count)])
  whole = [(i % len(prompts), medium.pixels) for i, (medium, complete) in enumerate(drawn)
           if complete and medium is not None and medium.pixels.shape == (28, 28, 1)]
  labels, made = (np.array(some) for some in zip(*whole))
  (train, _), (test, real_labels) = (data.fashion(source, split) for split in ("train", "test"))
  train, test = train[..., None], test[..., None]
  some = slice(MOST_JUDGED)
  return {"illegal": count - len(whole),
          "cas": 100 * classification.classification_accuracy_score(
              features.hog(made[some]), labels[some], features.hog(test), real_labels),
          "nearest": float(nearest_distances(made, train).mean() / nearest_distances(test, train).mean())}


if __name__ == "__main__":
  runs.main(rows)
