"""`gpt4x datastore` and `gpt4x index` as a user goes from them to `eval` and `generate`; each mistake is one line."""

import json
import pathlib
import sys

import pytest

from gpt4x import cli
from tests.inference import text_run

TEXTS = ["memory attends to its past", "a past segment", "its layers attend"]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """Texts, a run that reads a stream, one with another step and other weights, and one of conversations."""
  folder = tmp_path_factory.mktemp("knowledge")
  for name, texts in (("train", TEXTS), ("valid", ["memory attends"]), ("test", ["its past layers"])):
    text_run.write_texts(folder / f"{name}.jsonl", texts)
  for name, scale in (("run", 1.0), ("other", 1.01)):
    text_run.write(folder / name, step=5, scale=scale, LocalText__files="train.jsonl",
                   LocalText__validation_files="valid.jsonl", NearestNeighbours__k=4)
  text_run.write(folder / "chat", DatasetConfig__mixture_or_task_name="local_chat_bytes", LocalChat__files="chat.jsonl",
                 DatasetConfig__feature_converter="lm", DatasetConfig__task_feature_lengths={"targets": 64},
                 LocalChat__validation_files="asked.jsonl", DatasetConfig__pack=True)
  for name in ("chat", "asked"):
    (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "Where is the milk?", "completion": " home"}) + "\n")
  for name in ("more", "milk"):
    (folder / f"{name}.txt").write_text(f"the {name} is at home\n")
  return folder


@pytest.fixture(autouse=True)
def inside(made, monkeypatch):
  monkeypatch.chdir(made)


def run(capsys, *arguments):
  """What a command prints, and what it says beside."""
  capsys.readouterr()
  assert cli.main(list(arguments)) == 0, capsys.readouterr().err
  return capsys.readouterr()


def metrics(capsys, *arguments):
  return {name: float(value) for name, value in (line.split() for line in run(capsys, *arguments).out.splitlines())}


def mistake(capsys, *arguments, status=1):
  capsys.readouterr()
  assert cli.main(list(arguments)) == status
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.count("\n") == 1, captured.err
  return captured.err


@pytest.fixture(scope="module", name="store")
def _store(made):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(made)
    assert cli.main(["datastore", "--model_dir=run", "--output=store", "--lists=3"]) == 0
  return made / "store"


def test_from_a_store_to_text(store, capsys):
  """Tuned on one text, reported on another, and drawn from."""
  plain = metrics(capsys, "eval", "--model_dir=run")
  tuned = metrics(capsys, "eval", "--model_dir=run", "--datastore=store", "--tune")
  assert {name: tuned[name] for name in plain} == plain and tuned["tuning_gain"] > 0
  assert mistake(capsys, "eval", "--model_dir=run", "--datastore=store").startswith(
      "gpt4x: error: the weight and temperature of store were tuned on local_text_bytes/validation itself")
  other = "--gin.LocalText.validation_files='test.jsonl'"
  found = metrics(capsys, "eval", "--model_dir=run", "--datastore=store", other)
  assert found["knn_loss"] < found["loss"] and found["knn_bits_per_byte"] < found["bits_per_byte"]
  assert (found["knn_weight"], found["knn_temperature"]) == (tuned["tuned_weight"], tuned["tuned_temperature"])
  argv = ["generate", "--model_dir=run", "--prompt=memory att", "--temperature=0", "--max_tokens=8", "--json"]
  alone, mixed = (json.loads(run(capsys, *argv, *flags).out) for flags in ([], ["--datastore=store"]))
  assert mixed["text"] == "ends to " != alone["text"]


def test_what_a_store_says(store, capsys):
  said = run(capsys, "datastore", "--model_dir=run", "--output=part", "--max_tokens=9", "--layer=final").out
  assert said == "wrote part: step 5, 9 tokens of train, final\n"
  note = json.loads((store / "note.json").read_text())
  assert note["source"]["step"] == 5 and note["source"]["vocabulary"] == {"class": "ByteVocabulary", "extra_ids": 0}
  assert not list(store.parent.glob("*.building"))


@pytest.mark.parametrize("arguments, status, words", [
    (["eval", "--model_dir=other", "--datastore=store"], 1, "was made of other parameters (step 5,"),
    (["generate", "--model_dir=other", "--datastore=store", "--prompt=a"], 1, "was made of other parameters (step 5,"),
    (["eval", "--model_dir=run", "--datastore=store", "--split=train", "--tune"], 1, "nothing can be tuned on it"),
    (["eval", "--model_dir=run", "--tune"], 2, "--tune is for a datastore: name it by --datastore=STORE"),
    (["eval", "--model_dir=run", "--datastore=run"], 1, "run is no datastore (note.json is missing)"),
    (["eval", "--model_dir=run", "--datastore=store", "--gin.NearestNeighbours.layer='final'"], 1,
     "made of the layer layers.1.mlp_input, and NearestNeighbours.layer = 'final'"),
    (["eval", "--model_dir=run", "--datastore=store", "--gin.NearestNeighbours.weight=2.0"], 2,
     "NearestNeighbours.weight = 2.0 must be from 0 to 1"),
    (["datastore", "--model_dir=run", "--output=store"], 1, "store is there already: choose another --output"),
    (["datastore", "--model_dir=run", "--output=new", "--split=test"], 1, "no split 'test'"),
    (["datastore", "--model_dir=run", "--output=new", "--layer=layers.7.mlp"], 1, "no activation 'layers.7.mlp'"),
    (["datastore", "--model_dir=chat", "--output=new"], 1, "feature_converter = 'lm' has no stream of text"),
    (["datastore", "--model_dir=run", "--output=gs://bucket/store"], 2, "a datastore is read in place"),
    (["index", "--output=new", "--dense", "--gin.LocalText.files='*.txt'"], 2, "--dense is by the vectors of a model"),
    (["index", "--output=new"], 1, "LocalText.files is not set"),
    (["index", "--output=new", "--gin.LocalText.files='none/*'"], 2, "LocalText.files = 'none/*' matches no file"),
    (["index", "--output=new", "--gin.LocalText.files='chat.jsonl'"], 1, "chat.jsonl:1"),
    (["generate", "--model_dir=run", "--retrieve=run", "--prompt=a"], 1, "run is no index of documents"),
    (["eval", "--model_dir=run", "--retrieve=index"], 1, "has no prompts alone to find documents for"),
    (["generate", "--model_dir=run", "--documents=0", "--retrieve=index", "--prompt=a"], 2, "--documents: '0'"),
])
def test_each_mistake_is_one_line(store, capsys, arguments, status, words):
  assert words in mistake(capsys, *arguments, status=status)
  assert not pathlib.Path("new").exists() and not list(pathlib.Path().glob("new.*"))


@pytest.mark.parametrize("package, arguments", [
    ("faiss", ["datastore", "--model_dir=run", "--output=new"]),
    ("bm25s", ["index", "--output=new", "--gin.LocalText.files='*.txt'"]),
    ("faiss", ["index", "--output=new", "--gin.LocalText.files='*.txt'", "--model_dir=run", "--dense"])])
def test_packages_that_are_missing(capsys, monkeypatch, package, arguments):
  monkeypatch.setitem(sys.modules, package, None)
  assert f"the package {package}" in (line := mistake(capsys, *arguments)) and "pip install 'gpt4x[knowledge]'" in line


@pytest.fixture(scope="module", name="index")
def _index(made):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(made)
    assert cli.main(["index", "--output=index", "--gin.LocalText.files='*.txt'"]) == 0
    assert cli.main(["index", "--output=dense", "--gin.LocalText.files='*.txt'", "--model_dir=run", "--dense"]) == 0


@pytest.mark.parametrize("name", ["index", "dense"])
def test_documents_ahead_of_prompts(index, capsys, name):
  argv = ["generate", "--model_dir=run", "--prompt=milk home", "--prompt=the more", "--max_tokens=4", "--json"]
  plain = [json.loads(line) for line in run(capsys, *argv).out.splitlines()]
  captured = run(capsys, *argv, f"--retrieve={name}")
  found = [json.loads(line) for line in captured.out.splitlines()]
  assert [one["prompt"] for one in found] == ["milk home", "the more"]
  assert [one["retrieved"] for one in found] == [["milk.txt"], ["more.txt"]]
  assert all("retrieved" not in one for one in plain)
  assert [one["log_probs"] for one in found] != [one["log_probs"] for one in plain]
  # The same prompt with the text before it has the same continuations, but for what is drawn.
  whole = run(capsys, "generate", "--model_dir=run", "--prompt=the milk is at home\nmilk home", "--max_tokens=4",
              "--json", "--temperature=0")
  again = run(capsys, *argv[:3], "--max_tokens=4", "--json", "--temperature=0", f"--retrieve={name}")
  assert json.loads(whole.out)["tokens"] == json.loads(again.out)["tokens"]
  assert captured.err == ""


def test_a_long_document_is_cut_and_said(index, capsys):
  argv = ["generate", "--model_dir=run", f"--prompt=milk {'x' * 30}", "--max_tokens=2", "--retrieve=index"]
  captured = run(capsys, *argv)
  assert captured.err == ("gpt4x: warning: milk.txt is cut at its end: the model has 48 positions in view, and the"
                          " prompt takes 35\n")
  assert captured.out.startswith("milk xxx")


def test_answers_with_documents_in_view(index, capsys):
  """Of conversations, which are packed without documents."""
  plain = metrics(capsys, "eval", "--model_dir=chat")
  found = metrics(capsys, "eval", "--model_dir=chat", "--retrieve=index", "--documents=2")
  assert found["retrieved"] == 1 and found["tokens"] == plain["tokens"] and found["loss"] != plain["loss"]
