"""Nearest neighbours: what they take off the bits of held-out Wikipedia articles.

The model of experiments/quickstart.gin is trained on WikiText-2's training articles, which are then its datastore. The
weight and the temperature are tuned on the first half of the validation articles, and the rows are of the second half.

  knn_lm_gain           by how many per cent the bits per byte are fewer with neighbours than without
  knn_lm_bits_per_byte  these bits themselves, beside those without

    python -m benchmarks.knowledge.knn_lm --data=DIR [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator, Sequence
import gzip
import json
import pathlib
import re
import shutil

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

STEPS, PIECES = 550, 4096
NEIGHBOURS = {"NearestNeighbours.k": 256, "NearestNeighbours.probes": 32}


def rows(bench: runs.Bench) -> Iterator[Row]:
  source = pathlib.Path(bench.source, "wikitext-2")
  train = articles(gzip.decompress((source / "train.txt.gz").read_bytes()).decode())
  held = articles((source / "valid.txt").read_text(encoding="utf-8"))
  for name, texts in (("train", train), ("tune", held[:len(held) // 2]), ("test", held[len(held) // 2:])):
    write(bench.folder / f"{name}.jsonl", texts)
  bench.gpt4x("vocabulary", "--task=local_text_bytes", f"--size={PIECES}", "--output=local_text_spm",
              **files(bench, "tune"))
  yield from summarized(bench.each_seed(lambda seed: measured(bench, seed)))


def measured(bench: runs.Bench, seed: int) -> tuple[float, float]:
  """Bits per byte of the test articles, without neighbours and with."""
  run = bench.train(f"seed{seed}", "experiments/quickstart.gin", MIXTURE_OR_TASK_NAME="local_text_spm", SEED=seed,
                    TRAIN_STEPS=STEPS, EVAL_PERIOD=None, **{
                        "TransformerConfig.vocab_size": PIECES, "train.trackers": ()}, **files(bench, "tune"))
  store = f"{run}_store"
  bench.gpt4x("datastore", f"--model_dir={run}", f"--output={store}")
  tuned = bench.evaluate(run, f"--datastore={store}", "--tune", **NEIGHBOURS)
  found = bench.evaluate(run, f"--datastore={store}", **files(bench, "test"), **NEIGHBOURS)
  shutil.rmtree(store)
  print(f"weight {tuned['tuned_weight']}, temperature {tuned['tuned_temperature']}, {tuned['tuning_gain']:.2f}% where"
        f" it was tuned; {found['bits_per_byte']:.4f} to {found['knn_bits_per_byte']:.4f} bits", flush=True)
  return found["bits_per_byte"], found["knn_bits_per_byte"]


def summarized(found: Sequence[tuple[float, float]]) -> Iterator[Row]:
  """The rows of (bits without, bits with neighbours) of each seed."""
  gain, error = quickstart.mean_and_error([100 * (1 - mixed / alone) for alone, mixed in found])
  yield Row("knowledge/knn_lm_gain", gain, "%", error=error, goal="value >= 3")
  bits, error = quickstart.mean_and_error([mixed for _, mixed in found])
  peer, _ = quickstart.mean_and_error([alone for alone, _ in found])
  yield Row("knowledge/knn_lm_bits_per_byte", bits, "bits/byte", peer, bits / peer, error=error)


def articles(text: str) -> list[str]:
  """The articles of WikiText, each from its title on."""
  starts = [match.start() for match in re.finditer(r"^ = [^=\n].*[^=\n] = $", text, re.MULTILINE)]
  return [text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)])]


def write(path: pathlib.Path, texts: Sequence[str]) -> None:
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def files(bench: runs.Bench, held: str) -> dict[str, str]:
  """Bindings that train on the training articles, and hold out others."""
  return {"LocalText.files": str(bench.folder / "train.jsonl"),
          "LocalText.validation_files": str(bench.folder / f"{held}.jsonl")}


if __name__ == "__main__":
  runs.main(rows)
