"""`gpt4x serve` as a process, of a model directory as a run leaves it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import seqio

from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.inference.generate import Generator
from gpt4x.inference.sampling import Sampling
from gpt4x.serving.model import drafting
from tests.inference import text_run
from tests.serving.fake import SECONDS
from tests.test_imports import imported_by

KEY = "k" * 32


def asked(port: int, method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, dict]:
  """(status, answer) of a request on a connection of its own."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
  headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
  connection.request(method, path, None if body is None else json.dumps(body), headers)
  answer = connection.getresponse()
  found = answer.status, json.loads(answer.read())
  connection.close()
  return found


def listening(process: subprocess.Popen) -> tuple[int, list[str]]:
  """The port that a server tells, and the lines before it."""
  lines = []
  for line in process.stderr:
    lines.append(line)
    if "http://" in line:
      return int(line.rpartition(":")[2]), lines
  raise AssertionError(lines)


def test_a_directory_is_served_until_it_is_told_to_end(tmp_path, repository):
  """With a key, by its directory's name; nothing that was asked or that opens it is told."""
  directory, keys = tmp_path / "mine", tmp_path / "keys"
  directory.mkdir()
  text_run.write(directory)
  keys.write_text(KEY)
  process = subprocess.Popen(
      [sys.executable, "-m", "gpt4x.cli", "serve", f"--model_dir={directory}", "--port=0", f"--api_key_file={keys}",
       "--slots=2", "--speculate"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {"PYTHONPATH": str(repository)})
  timer = threading.Timer(12 * SECONDS, process.kill)
  timer.start()
  try:
    port, lines = listening(process)
    assert asked(port, "GET", "/ready", key=None)[0] == 200
    assert asked(port, "GET", "/v1/models", key=None)[0] == 401
    assert [one["id"] for one in asked(port, "GET", "/v1/models")[1]["data"]] == ["mine"]
    body = {"model": "mine", "prompt": "a secret", "max_tokens": 5, "temperature": 0, "logit_bias": {"1": -100}}
    status, answer = asked(port, "POST", "/v1/completions", body)
    assert status == 200 and answer["usage"]["completion_tokens"] == 5
    assert asked(port, "POST", "/v1/completions", body)[1]["choices"] == answer["choices"]
    process.send_signal(signal.SIGTERM)
    out, rest = process.communicate()
    assert process.returncode == 0, rest
  finally:
    timer.cancel()
    process.kill()
    process.communicate()
  told = "".join(lines) + rest + out
  assert "POST /v1/completions 200" in told and "GET /v1/models 401" in told
  assert "secret" not in told and KEY not in told


@pytest.mark.parametrize("words", ["--help", "serve --help"])
def test_help_imports_no_server(words):
  code = f"""if True:
  import contextlib, io, gpt4x.cli
  with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    gpt4x.cli.main({words.split()})
"""
  assert not {"starlette", "uvicorn", "prometheus_client", "jax", "numpy"} & imported_by(code + "import sys")


def test_a_small_model_drafts_for_one_with_its_vocabulary(tmp_path):
  """What it guesses is what it would write itself; one of other tokens is refused."""
  for name in ("large", "small", "other"):
    (tmp_path / name).mkdir()
    text_run.write(tmp_path / name)
  vocabularies.save(seqio.ByteVocabulary(extra_ids=7), tmp_path / "other")
  experiments = {name: reading.saved_experiment(str(tmp_path / name), data=False) for name in ("small", "other")}
  drafts = drafting(str(tmp_path / "small"), experiments["small"], str(tmp_path / "large"))
  (written,) = Generator(str(tmp_path / "small"), experiments["small"], sampling=Sampling(0.0)).complete(
      ["abc"], max_tokens=5)
  assert drafts([3 + byte for byte in b"abc"], 5) == written.tokens
  with pytest.raises(UserError, match="have different vocabularies"):
    drafting(str(tmp_path / "other"), experiments["other"], str(tmp_path / "large"))
