"""Bits a sample of spoken digits by an exact path: no bit of the waveform is lost, and a decoder says how likely it is.

The samples become residuals of an adaptive predictor (`residual:8000`), which a decoder learns on 1,200 recordings; the
figure is that of the 300 others, 16 bits each as they are in the files. FLAC's fixed predictors with Rice codes need
10.06. A sixth of the recordings have samples of 8 bits, which the predictor notices and such a code does not.
"""

from collections.abc import Iterator
import json

from benchmarks.harness import Row
from benchmarks.media import data, runs

FIXED_PREDICTORS = 10.06

MODEL = {"MediaTokens.audio": "residual:8000", "TASK_FEATURE_LENGTHS": {"targets": 128}, "BATCH_SIZE": 32,
         "TRAIN_STEPS": 300, "EVAL_PERIOD": 300, "CHECKPOINT_PERIOD": 300, "EVAL_STEPS": 1,
         "TransformerConfig.vocab_size": 1024, "TransformerConfig.num_layers": 2, "TransformerConfig.embed_dim": 96,
         "TransformerConfig.mlp_dim": 384, "TransformerConfig.memory_length": 128,
         "TransformerConfig.eval_memory_length": 128}


def rows(bench: runs.Bench) -> Iterator[Row]:
  data.write_speech(bench.source, bench.folder)
  for split in ("train", "test"):  # The sounds alone, without their names.
    lines = [json.loads(line) for line in (bench.folder / f"{split}.jsonl").read_text().splitlines()]
    data.write_records(bench.folder / f"{split}.jsonl", [{"audio": line["audio"]} for line in lines])

  def measure(seed: int) -> float:
    run = bench.train(f"run{seed}", "experiments/media_tiny.gin", SEED=seed, **MODEL, **bench.files())
    return bench.evaluate(run)["bits_per_sample"]

  yield runs.row("fsdd_bits", bench.each_seed(measure), "bits/sample", "<", FIXED_PREDICTORS)


if __name__ == "__main__":
  runs.main(rows)
