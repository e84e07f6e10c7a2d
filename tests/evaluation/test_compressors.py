"""What a model is judged against is what the compressors make of the very text."""

import gzip
import json
import lzma
import sys
import types

import numpy as np
import pytest

from gpt4x.evaluation import compressors

TEXTS = ["memory attends to its past. " * 40, "\u00fcn\u00efc\u00f6d\u00e9 \udce9" * 20]


class Data:
  """Documents of numbers, which stand for TEXTS."""

  def __init__(self, texts):
    self._texts = texts
    self.vocabulary = types.SimpleNamespace(decode=lambda tokens: texts[tokens[0]])

  def documents(self, split):
    assert split == "validation"
    return [np.array([number]) for number in range(len(self._texts))]


def test_bits_per_byte(tmp_path):
  text = "".join(TEXTS).encode(errors="surrogatepass")
  found = compressors.of_split(str(tmp_path), Data(TEXTS), "validation")
  assert found == {"gzip -9": 8 * len(gzip.compress(text, 9)) / len(text),
                   "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text)}
  assert compressors.known_of(str(tmp_path)) == found


def test_they_run_once_for_a_text(tmp_path, monkeypatch):
  first = compressors.of_split(str(tmp_path), Data(TEXTS), "validation")
  other = compressors.of_split(str(tmp_path), Data(TEXTS[:1]), "validation")
  assert other != first and compressors.known_of(str(tmp_path)) == other
  monkeypatch.setattr(compressors, "_compress", lambda content: pytest.fail("it is known"))
  assert compressors.of_split(str(tmp_path), Data(TEXTS[:1]), "validation") == other


def test_what_this_python_lacks_is_left_out(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "lzma", None)
  assert compressors.of_split(str(tmp_path), Data(TEXTS), "validation").keys() == {"gzip -9"}


@pytest.mark.parametrize("content", [
    "", "{", "[]", "3", "{}", '{"bits_per_byte": null}', '{"bits_per_byte": {"a": "b"}}'])
def test_a_damaged_file_is_written_again(tmp_path, content):
  (tmp_path / "compressors.json").write_text(content)
  assert compressors.known_of(str(tmp_path)) == {}
  found = compressors.of_split(str(tmp_path), Data(TEXTS), "validation")
  assert json.loads((tmp_path / "compressors.json").read_text())["bits_per_byte"] == found


def test_a_directory_that_may_only_be_read(tmp_path):
  assert compressors.of_split(str(tmp_path / "missing"), Data(TEXTS), "validation")
