"""A newcomer's first hour: what `make quickstart` reaches, and how long it takes, its environment made already.

Its commands run as the Makefile gives them, with three seeds, each time without prepared data and without a compilation
cache. `newcomer/quickstart_bits_per_byte` is the run's last evaluation of the whole validation split, ± the standard
error of the mean; beside it `gzip -9`, whose input, as that of `xz -9`, are the same bytes: all its documents in one
piece. `newcomer/training` is the longest training of the three, without compilation and evaluation, and
`newcomer/quickstart` the longest time of all commands, the sample and the report included.
`newcomer/decoder_bits_per_byte` comes from the group `equal`: a plain PyTorch decoder after 150 s of training.
"""

from collections.abc import Iterator
import gzip
import lzma
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import harness, quickstart
from benchmarks.harness import Row


def rows(rounds: int, bindings: dict[str, Any] | None = None) -> Iterator[Row]:
  with tempfile.TemporaryDirectory() as folder:
    harness.in_a_process(quickstart.write_corpus, folder)
    held_out = quickstart.read_corpus(folder, "validation")
  found, whole = [], []
  for seed in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      run, start = str(pathlib.Path(folder, "run")), time.perf_counter()
      for command in quickstart.commands(run):
        changes = {"SEED": seed} | (bindings or {}) if quickstart.is_train(command) else {}
        quickstart.run(command, str(pathlib.Path(folder, "data")), **changes)
      whole.append(time.perf_counter() - start)
      found.append(quickstart.trained(quickstart.read_metrics(run)))
      print(f"quickstart: {found[-1]}, {whole[-1]:.0f} s in all", flush=True)
    quickstart.check_bytes(found[-1].num_bytes, held_out)
  text = b"".join(held_out)
  packed = {"gzip": gzip.compress(text, 9), "xz": lzma.compress(text, preset=9)}
  bits = {name: 8 * len(data) / len(text) for name, data in packed.items()}
  value, error = quickstart.mean_and_error([one.bits_per_byte for one in found])
  yield Row("newcomer/quickstart_bits_per_byte", value, "bits/byte", bits["gzip"], value / bits["gzip"], error=error,
            goal="value < 1.58")
  for name, figure in bits.items():
    yield Row(f"newcomer/{name}_bits_per_byte", figure, "bits/byte")
  yield Row("newcomer/training", max(one.seconds for one in found), "s", goal="value <= 240")
  yield Row("newcomer/quickstart", max(whole), "s")
