"""Runs of an earlier version, before objectives and models were apart, go on as that version would have gone on.

tests/fixtures/earlier_runs has two model directories of 4 steps, trained by it on one device, and what it printed:
`dense`, from tiny.gin, and `mixture`, with Muon, scanned blocks of an MLP and of experts with biases, two microbatches
and LanguageModel.z_loss, which is NextToken's today. The corpus is `corpus/*.txt` in the current directory.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from gpt4x import cli
from tests.integration import corpus

ONE_DEVICE = ["--gin.Partitioner.data=1", "--gin.Partitioner.num_devices=1"]


@pytest.fixture(name="earlier", params=["dense", "mixture"])
def _earlier(request, repository, tmp_path, monkeypatch):
  """The name of a copy in the current directory, and what the earlier version made of it."""
  fixtures = repository / "tests" / "fixtures" / "earlier_runs"
  with tarfile.open(fixtures / f"{request.param}.tar.gz") as archive:
    archive.extractall(tmp_path, filter="data")
  corpus.write(tmp_path / "corpus")
  monkeypatch.chdir(tmp_path)
  return request.param, json.loads((fixtures / "expected.json").read_text())[request.param]


def test_an_earlier_run_is_evaluated_and_generates(earlier, capsys):
  name, expected = earlier
  assert cli.main(["eval", f"--model_dir={name}"]) == 0
  printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
  found = {metric: float(printed[metric]) for metric in expected["evaluation"]}
  np.testing.assert_allclose(list(found.values()), list(expected["evaluation"].values()), rtol=1e-5)
  assert cli.main(["generate", f"--model_dir={name}", "--prompt=memory ", "--max_tokens=20", "--temperature=0"]) == 0
  assert capsys.readouterr().out == expected["text"]


def test_an_earlier_run_goes_on_from_its_own_configuration(earlier):
  name, expected = earlier
  assert cli.main(["train", f"--model_dir={name}", "--gin.TRAIN_STEPS=8", *ONE_DEVICE]) == 0
  lines = [json.loads(line) for line in pathlib.Path(name, "metrics.jsonl").read_text().splitlines()]
  assert [[line["step"], line["split"]] for line in lines] == [keys for *keys, _ in expected["losses"]]
  # Evaluations of a part of the split were of other parts in earlier versions.
  whole = [i for i, line in enumerate(lines) if not line.get("partial")]
  assert len(whole) >= 8
  np.testing.assert_allclose([lines[i]["loss"] for i in whole], [expected["losses"][i][-1] for i in whole], rtol=1e-5)
