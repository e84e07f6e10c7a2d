"""What the scripts on spoken digits share: their files, with recordings that were changed a little beside them."""

import numpy as np

from benchmarks.media import data, runs


def write(bench: runs.Bench, name: str, left_out: str | None = None, copies: int = 0, seed: int = 0) -> dict[str, str]:
  """Writes a split (see `data.write_speech`) below the script's folder; the bindings that read it.

  Args:
    bench: where.
    name: of the folder.
    left_out: the one whose recordings are all for testing.
    copies: of each training recording, that are changed a little; see `changed`.
    seed: of the changes.
  """
  folder = bench.folder / name
  data.write_speech(bench.source, folder, left_out)
  files = [str(folder / "train.jsonl")]
  if copies:
    write_changed(files[0], folder / "changed", copies, seed)
    files.append(str(folder / "changed" / "train.jsonl"))
  return {"LocalMedia.files": files, "LocalMedia.validation_files": str(folder / "test.jsonl")}


def write_changed(lines: str, folder, copies: int, seed: int) -> None:
  """Changed copies of the recordings that JSON-lines name, and JSON-lines of them."""
  import json
  import pathlib

  from gpt4x.media.files import sounds
  folder, rng, records = pathlib.Path(folder), np.random.default_rng(seed), []
  folder.mkdir(parents=True)
  for number, line in enumerate(pathlib.Path(lines).read_text().splitlines()):
    record = json.loads(line)
    sound = sounds.read(record["audio"])
    for copy in range(copies):
      path = folder / f"{number:05}-{copy}.wav"
      sounds.write(changed(sound, rng), path)
      records.append({**record, "audio": path.name})
  data.write_records(folder / "train.jsonl", records)


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
  samples *= min(10**(rng.uniform(-0.5, 0.5)), 30000 / (np.abs(samples).max() + 1))
  return Audio(np.round(samples).astype(np.int16), sound.rate)
