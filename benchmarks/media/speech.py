"""What the scripts on spoken digits share: their files, recordings that were changed a little, and sizes of models."""

import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.media import data, runs

COPIES = 8  # Of each training recording, changed a little.
# One decoder, which names what it hears and says what is named: half of what it sees teaches it what codes mean.
BOTH_WAYS = {"TASK_FEATURE_LENGTHS": {"inputs": 140, "targets": 140}, "BATCH_SIZE": 8, "TRAIN_STEPS": 3000,
             "warmup_linear.peak": 0.005, "TransformerConfig.vocab_size": 2368, "TransformerConfig.num_layers": 3,
             "TransformerConfig.embed_dim": 96, "TransformerConfig.mlp_dim": 384,
             "TransformerConfig.memory_length": 0, "TransformerConfig.eval_memory_length": 0}
SELDOM = {"EVAL_PERIOD": 100_000, "CHECKPOINT_PERIOD": 100_000}


def write(bench: runs.Bench, name: str, left_out: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes a split (see `data.write_speech`) below the script's folder, and COPIES of its training recordings.

  Returns:
    The bindings that read the recordings alone, and those that read the changed ones as well.
  """
  plain, folder = originals(bench, name, left_out), bench.folder / name
  write_changed(folder / "train.jsonl", folder / "changed")
  return plain, {**plain, "LocalMedia.files": [plain["LocalMedia.files"], str(folder / "changed" / "train.jsonl")]}


def originals(bench: runs.Bench, name: str, left_out: str | None = None) -> dict[str, Any]:
  """Writes a split without changed copies; the bindings that read it."""
  folder = bench.folder / name
  data.write_speech(bench.source, folder, left_out)
  return {"LocalMedia.files": str(folder / "train.jsonl"), "LocalMedia.validation_files": str(folder / "test.jsonl")}


def write_changed(lines: pathlib.Path, folder: pathlib.Path) -> None:
  """COPIES of the recordings that JSON-lines name, and JSON-lines of them."""
  from gpt4x.media.files import sounds
  rng, records = np.random.default_rng(0), []
  folder.mkdir(parents=True)
  for number, line in enumerate(lines.read_text().splitlines()):
    record = json.loads(line)
    sound = sounds.read(record["audio"])
    for copy in range(COPIES):
      path = folder / f"{number:05}-{copy}.wav"
      sounds.write(changed(sound, rng), path)
      records.append({**record, "audio": path.name})
  data.write_records(folder / "train.jsonl", [records[place] for place in rng.permutation(len(records))])


def changed(sound, rng: np.random.Generator):
  """A sound as another speaker or microphone might have it: other in pitch and pace, tilt, loudness, noise, silence."""
  from scipy import signal

  from gpt4x.media.medium import Audio
  samples = sound.samples.astype(np.float64)
  samples = signal.resample(samples, round(len(samples) * np.exp(rng.uniform(-0.17, 0.17))))
  samples = signal.lfilter([1, rng.uniform(-0.5, 0.5)], [1], samples)
  samples = np.pad(samples, rng.integers(0, 400, 2))
  level = np.sqrt(np.mean(samples**2)) + 1
  samples += rng.normal(size=len(samples)) * level * 10**(rng.uniform(-45, -15) / 20)
  samples *= min(10**rng.uniform(-0.5, 0.5), 30000 / (np.abs(samples).max() + 1))
  return Audio(np.round(samples).astype(np.int16), sound.rate)


def recogniser(bench: runs.Bench):
  """A function from sounds to the digits that they are taken for."""
  from gpt4x.evaluation import classification, features
  sounds, labels = recordings(bench, "train")
  space = features.timbre(sounds)
  return lambda others: classification.kernel_ridge(space, labels, features.timbre(others))


def recordings(bench: runs.Bench, split: str) -> tuple[list, np.ndarray]:
  from gpt4x.media.files import sounds
  found = [(path, digit) for path, digit, _, index in data.recordings(bench.source) if (index < 5) == (split == "test")]
  return [sounds.read(path) for path, _ in found], np.array([digit for _, digit in found])
