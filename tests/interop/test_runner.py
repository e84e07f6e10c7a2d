"""run.py of a bundle, as who has no more than the bundle runs it."""

import argparse
import inspect
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import seqio

from gpt4x import cli, storage
from gpt4x.commands import export
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.inference.text import Text
from gpt4x.interop import bundles
from gpt4x.media.codec_module import CodecConfig
from gpt4x.models.codec_model import CodecModel
from tests.data.test_hugging_face import byte_level
from tests.data.test_vocabularies import AWKWARD
from tests.interop import exported, hugging_face
from tests.models import tiny

# Runs a file in a Python without what made it.
ALONE = """
import runpy, sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {blocked}:
      raise ImportError(f"{{name}} is not to be imported")
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WORDS = ["<eos>", "<unk>", "the", ",", *(f"w{i}" for i in range(20))]
BLOCKED = ("gpt4x", "jax", "jaxlib", "tensorflow", "seqio", "flax")


def run(folder, *flags, blocked=BLOCKED):
  """(exit status, standard output, the last line of standard error)."""
  result = subprocess.run([sys.executable, "-c", ALONE.format(blocked=set(blocked)), f"{folder}/run.py", *flags],
                          capture_output=True, text=True)
  assert "Traceback" not in result.stderr
  return result.returncode, result.stdout, (result.stderr.splitlines() or [""])[-1]


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory, request):
  """Two runs, of bytes and of words that never end, and the bundles that the command makes of them."""
  folder = tmp_path_factory.mktemp("trained")
  shutil.unpack_archive(request.config.rootpath / "tests/fixtures/earlier_runs/dense.tar.gz", folder, filter="data")
  config = hugging_face.make_config(cutoffs=[5, 12], div_val=2, same_length=True, vocab_size=24)
  published = hugging_face.write(folder / "hf", config, hugging_face.make_tensors(config), "legacy")
  (published / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
  assert cli.main(["convert", "--from=transfo_xl", f"--input={published}", f"--model_dir={folder}/words"]) == 0
  for kind, run in (("onnx", "dense"), ("onnx", "words"), ("tflite", "words"), ("stablehlo", "dense")):
    assert cli.main(["export", f"--model_dir={folder}/{run}", f"--output={folder}/{run}_{kind}",
                     f"--format={kind}"]) == 0
  return folder


@pytest.mark.parametrize("bundle, blocked", [
    ("dense_onnx", BLOCKED), ("words_onnx", BLOCKED), ("words_tflite", BLOCKED),
    ("dense_stablehlo", set(BLOCKED) - {"jax", "jaxlib"})])
def test_the_greedy_continuation_is_that_of_generate(trained, bundle, blocked, capsys):
  for prompt in ("the w3", "w1 the\n" * 30):  # The last is several times the window.
    flags = [f"--prompt={prompt}", "--max_tokens=70", "--temperature=0"]
    capsys.readouterr()
    assert cli.main(["generate", f"--model_dir={trained}/{bundle.partition('_')[0]}", *flags]) == 0
    assert run(trained / bundle, *flags, blocked=blocked)[:2] == (0, capsys.readouterr().out)


def test_an_empty_prompt_and_a_seed(trained):
  status, first, _ = run(trained / "words_onnx", "--seed=1", "--max_tokens=30")
  assert status == 0 and len(first.split()) > 5
  assert run(trained / "words_onnx", "--seed=1", "--max_tokens=30")[1] == first
  assert run(trained / "words_onnx", "--seed=2", "--max_tokens=30")[1] != first
  cold = run(trained / "words_onnx", "--temperature=1e-300", "--max_tokens=30")[1]
  assert cold == run(trained / "words_onnx", "--temperature=0", "--max_tokens=30")[1]


def damage(folder, name, change):
  (folder / name).write_bytes(change((folder / name).read_bytes()))


def config(**changes):
  def change(content):
    return json.dumps({**json.loads(content), **changes}).encode()
  return change


@pytest.mark.parametrize("name, change, words", [
    ("model.onnx", lambda content: content[:-1], "model.onnx is damaged"),
    ("model.onnx", lambda content: content[:999] + bytes([content[999] ^ 1]) + content[1000:], "model.onnx is damaged"),
    ("config.json", lambda content: content[:50], "copy it again"),
    ("config.json", lambda content: b"[]", "copy it again"),
    ("config.json", lambda content: b"{}", "copy it again"),
    ("config.json", config(window=10**9, chunk=0), "does not fit"),
    ("config.json", config(vocab_size=999), "does not fit"),
    ("config.json", config(cache={}), "does not fit"),
    ("config.json", config(cache={"cache_segment_ids": [1, 10**12]}), "does not fit"),
    ("config.json", config(version=2), "version 2"),
    ("vocabulary.json", lambda content: b'{"class": "MyOwn"}', "MyOwn"),
    ("words.txt", lambda content: b"\xff", "copy it again"),
], ids=range(12))
def test_a_damaged_folder_ends_with_one_line(trained, tmp_path, name, change, words):
  shutil.copytree(trained / "words_onnx", tmp_path / "copy")
  damage(tmp_path / "copy", name, change)
  status, out, line = run(tmp_path / "copy", "--max_tokens=3")
  assert status == 1 and line.startswith("run.py: ") and words in line, line


@pytest.mark.parametrize("change", [lambda content: content[:-200], lambda content: b"", lambda content: b"x" * 99])
def test_a_model_that_its_library_cannot_read_ends_with_one_line(trained, tmp_path, change):
  """Though config.json says that this is the file."""
  shutil.copytree(trained / "words_onnx", tmp_path / "copy")
  damage(tmp_path / "copy", "model.onnx", change)
  damage(tmp_path / "copy", "config.json", config(files={}))
  status, out, line = run(tmp_path / "copy", "--max_tokens=3")
  assert status == 1 and line.startswith("run.py: this folder cannot be used, copy it again"), line


@pytest.mark.parametrize("flags, status, words", [
    (["--max_tokens=0"], 1, "--max_tokens must be at least 1"),
    (["--temperature=nan"], 1, "--temperature"),
    (["--seed=-1"], 1, "--seed"),
    (["--max_tokens=x"], 2, "invalid int value")])
def test_a_wrong_flag_ends_with_one_line(trained, flags, status, words):
  found, out, line = run(trained / "words_onnx", *flags)
  assert (found, out) == (status, "") and words in line


def test_a_missing_library_is_named(trained):
  status, out, line = run(trained / "words_onnx", blocked=("onnxruntime",))
  assert status == 1 and "onnxruntime" in line and "pip" in line


TEXTS = ["", "the cat sat", " two  blanks ", "a\nb\n", "".join(AWKWARD), "w1 strange w2\nthe", "\n", "\n\n x"]


def truncated(tokenizer):
  tokenizer.enable_truncation(2)
  tokenizer.enable_padding(length=50)


CHANGES = {"tokenizer": lambda tokenizer: None, "tokenizer_truncated": truncated,
           "tokenizer_dropout": lambda tokenizer: setattr(tokenizer.model, "dropout", 0.9)}


@pytest.fixture(name="vocabulary", scope="module", params=[
    "bytes", "lossless", "sentencepiece", "words", *CHANGES])
def _vocabulary(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("vocabulary")
  if request.param == "bytes":
    return seqio.ByteVocabulary()
  if request.param == "words":
    return vocabularies.write_words(WORDS, folder)
  if request.param.startswith("tokenizer"):
    path = byte_level(folder / "tokenizer.json", CHANGES[request.param])
    return vocabularies.HuggingFaceVocabulary(path, eos="<|endoftext|>")
  vocabularies.train_sentencepiece([inspect.getsource(shutil), "tabs\tand ünicode"], 600, folder / "it.model")
  kind = {"lossless": vocabularies.LosslessSentencePieceVocabulary, "sentencepiece": seqio.SentencePieceVocabulary}
  return kind[request.param](str(folder / "it.model"))


def test_text_and_ids_are_those_of_the_vocabulary(vocabulary, tmp_path):
  made = tiny.make(vocab_size=vocabulary.vocab_size)
  folder = exported.write("onnx", made, tmp_path / "made", vocabulary)
  encode, decode = exported.runner(folder).vocabulary()
  for text in TEXTS:
    ids = list(vocabulary.encode(text))
    assert encode(text) == ids
    assert decode(ids) == vocabulary.decode(ids)
  config = json.loads((folder / "config.json").read_text())
  known = vocabularies.load(folder)
  assert (config["eos_id"], config["first_id"]) == (known.eos_id, vocabularies.first_text_id(known))


def test_text_comes_as_generate_gives_it(vocabulary, tmp_path):
  """Of any tokens, parts of characters among them, behind any prompt."""
  run = exported.runner(exported.write("onnx", tiny.make(vocab_size=vocabulary.vocab_size), tmp_path / "made",
                                       vocabulary))
  _, decode = run.vocabulary()
  rng = np.random.default_rng(0)
  spelled = vocabulary.encode("w1 the x = 1\n w2 ünïcödé 🏳️‍🌈 , ")
  for count in (0, 1, 3, 60):
    for drawn in (rng.integers(3, vocabulary.vocab_size, count).tolist(), [*spelled, *spelled][:count]):
      prompt = vocabulary.encode("the w1")
      expected = Text(vocabulary, prompt, 1000)
      expected.add(drawn, np.zeros(count))
      assert "".join(run.pieces(decode, prompt, iter(drawn))) == expected.text


def test_a_reader_that_leaves_ends_it_quietly(trained):
  process = subprocess.Popen([sys.executable, f"{trained}/words_onnx/run.py", "--max_tokens=100000"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process.stdout.read(30)
  process.stdout.close()
  assert process.stderr.read() == "" and process.wait() == 141


def test_a_word_that_the_model_does_not_know_is_named(tmp_path):
  folder = exported.write("onnx", tiny.make(vocab_size=3), tmp_path / "made",
                          vocabularies.write_words(["<eos>", "the", ","], tmp_path))
  status, out, line = run(folder, "--prompt=the cat")
  assert status == 1 and "does not know" in line and not out


class Own(seqio.ByteVocabulary):
  """A vocabulary that only this process knows."""

  def to_bytes(self):
    return b"own"

  @classmethod
  def from_bytes(cls, content):
    return cls()


def test_what_run_py_could_not_read_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(UserError, match="cannot read a vocabulary of the class Own"):
    exported.write("onnx", tiny.make(), tmp_path / "made", vocabularies.register(Own)())
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("model, converter, words", [
    (CodecModel(CodecConfig(medium="image")), "stream", "decodes no text"), (None, "prefix_lm", "in both directions")])
def test_models_that_are_no_decoders_are_refused(model, converter, words, tmp_path):
  arguments = argparse.Namespace(model_dir="runs/it", output=str(tmp_path / "made"), format="onnx", step=None)
  experiment = types.SimpleNamespace(model=model, dataset=types.SimpleNamespace(feature_converter=converter))
  with pytest.raises(UserError, match=f"--format=onnx: .*runs/it.*{words}.*leave --format out"):
    export._decoding_window(arguments, experiment)


def test_nothing_is_overwritten(trained, capsys):
  before = (trained / "words_onnx" / "model.onnx").stat().st_mtime_ns
  for kind in bundles.FORMATS:
    assert cli.main(["export", f"--model_dir={trained}/words", f"--output={trained}/words_onnx",
                     f"--format={kind}"]) == 1
    assert "is there already" in capsys.readouterr().err
  assert (trained / "words_onnx" / "model.onnx").stat().st_mtime_ns == before


def test_a_bundle_in_a_bucket_is_the_one_of_a_folder(gs, tmp_path):
  made, folder = tiny.make(), exported.write("onnx", tiny.make(), tmp_path / "made")
  url = exported.write("onnx", made, f"{gs}/made")
  names = sorted(path.name for path in folder.iterdir())
  assert [path.name for path in storage.files_below(storage.path(url))] == names
  assert all(storage.read_bytes(storage.path(url) / name) == (folder / name).read_bytes() for name in names)


def test_a_bundle_is_no_model_for_convert(trained, tmp_path, capsys):
  assert cli.main(["convert", "--from=safetensors", f"--input={trained}/words_onnx", f"--model_dir={tmp_path}/m"]) == 1
  assert "choose what gpt4x export wrote" in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_package_is_named(trained, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnx", None)
  for name in ("onnx_files", "onnx_graph"):
    monkeypatch.delitem(sys.modules, f"gpt4x.interop.{name}", raising=False)
  assert cli.main(["export", f"--model_dir={trained}/words", f"--output={tmp_path}/o", "--format=onnx"]) == 1
  assert "pip install 'gpt4x[export]'" in capsys.readouterr().err.splitlines()[-1]
