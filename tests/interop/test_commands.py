"""`gpt4x convert` and `gpt4x export`, and what the other commands make of their directories."""

import json
import random
import shutil

import numpy as np
import pytest
import safetensors.numpy

from gpt4x import cli
from tests.integration import corpus
from tests.interop import hugging_face

WORDS = ["<eos>", "<unk>", "the", ",", *(f"w{i}" for i in range(20))]


def run(capsys, *argv):
  """Standard output of a command that succeeds."""
  assert cli.main([str(arg) for arg in argv]) == 0, capsys.readouterr().err
  return capsys.readouterr().out


def failure(capsys, *argv):
  status = cli.main([str(arg) for arg in argv])
  lines = capsys.readouterr().err.splitlines()
  assert not [line for line in lines if "Traceback" in line] and lines[-1].startswith("gpt4x: error: ")
  return status, lines[-1]


def metrics(printed):
  return {name: float(value) for name, value in (line.split() for line in printed.splitlines())}


@pytest.fixture(name="published", scope="module")
def _published(tmp_path_factory):
  """A directory of Hugging Face, its configuration and its tensors."""
  config = hugging_face.make_config(cutoffs=[5, 12], div_val=2, same_length=True, vocab_size=24)
  tensors = hugging_face.make_tensors(config)
  directory = hugging_face.write(tmp_path_factory.mktemp("published") / "hf", config, tensors, "legacy")
  (directory / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
  return directory, config, tensors


@pytest.fixture(name="text", scope="module")
def _text(tmp_path_factory):
  draw = random.Random(0)
  path = tmp_path_factory.mktemp("text") / "held_out.txt"
  lines = [" ".join(draw.choice([*WORDS[2:], "strange"]) for _ in range(draw.randrange(9))) for _ in range(40)]
  path.write_text("".join(f" {line} \n" for line in lines))
  return path


@pytest.fixture(name="converted", scope="module")
def _converted(published, tmp_path_factory):
  """A model directory that has moved since it was made."""
  folder = tmp_path_factory.mktemp("converted")
  assert cli.main(["convert", "--from=transfo_xl", f"--input={published[0]}", f"--model_dir={folder}/first"]) == 0
  shutil.move(folder / "first", folder / "model")
  return folder / "model"


def test_eval_of_a_converted_model(published, converted, text, tmp_path, capsys):
  """Their log-probabilities of the words of a file, one after another with memory."""
  _, config, tensors = published
  (tmp_path / "train.txt").write_text("the , the\n")
  flags = (f"--gin.LocalText.files='{tmp_path}/train.txt'", f"--gin.LocalText.validation_files='{text}'",
           "--gin.TASK_FEATURE_LENGTHS={'targets': 6}")
  found = metrics(run(capsys, "eval", f"--model_dir={converted}", *flags))
  ids = [WORDS.index(word) if word in WORDS else 1
         for line in text.read_text().splitlines() for word in [*line.split(), "<eos>"]]
  inputs, loss, mems = [0, *ids[:-1]], 0.0, None
  for start in range(0, len(ids), 6):
    now = slice(start, start + 6)
    log_probs, mems = hugging_face.forward(tensors, config, np.array([inputs[now]]), mems)
    loss -= log_probs[0, np.arange(len(ids[now])), ids[now]].sum()
  assert found["tokens"] == len(ids) and found["step"] == 0
  np.testing.assert_allclose(found["loss"], loss / len(ids), rtol=1e-5)
  assert "bits_per_byte" not in found


def test_generate_from_a_converted_model(published, converted, capsys):
  """Greedy words, line ends among them, as their forward pass has them; nothing ends the text."""
  _, config, tensors = published
  prompt = "w3 the\n, w7"
  printed = run(capsys, "generate", f"--model_dir={converted}", f"--prompt={prompt}", "--max_tokens=12",
                "--temperature=0")
  ids, mems, drawn = [0, 7, 2, 0, 3, 11], None, []
  for i in range(12 + len(ids) - 1):
    log_probs, mems = hugging_face.forward(tensors, config, np.array([[ids[i]]]), mems)
    if i >= 5:
      drawn.append(int(log_probs[0, 0].argmax()))
      ids.append(drawn[-1])
  expected = prompt + "".join("\n" if i == 0 else f" {WORDS[i]}" for i in drawn)
  assert printed.replace("\n ", "\n").rstrip() == expected.replace("\n ", "\n").rstrip()


def test_fine_tuning_a_converted_model(converted, text, tmp_path, capsys):
  (tmp_path / "train.txt").write_text("the w1 ,\n" * 50)
  data = [f"--gin.LocalText.files='{tmp_path}/train.txt'", f"--gin.LocalText.validation_files='{text}'",
          "--gin.TASK_FEATURE_LENGTHS={'targets': 6}"]
  run(capsys, "train", f"--model_dir={tmp_path}/tuned", f"--gin_file={converted}/config.gin", *data,
      f"--gin.LocalText.words='{converted}/words.txt'", f"--gin.train.init_from='{converted}'",
      "--gin.OPTIMIZER=@adamw()", "--gin.adamw.learning_rate=1e-3", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2")
  lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
  before, after = [line["loss"] for line in lines if line["split"] == "validation"]
  same = metrics(run(capsys, "eval", f"--model_dir={converted}", *data))
  np.testing.assert_allclose(before, same["loss"], rtol=1e-5)
  assert after < before
  shutil.move(tmp_path / "tuned", tmp_path / "moved")
  found = metrics(run(capsys, "eval", f"--model_dir={tmp_path}/moved"))
  np.testing.assert_allclose(found["loss"], after, rtol=1e-4)


def test_what_else_is_asked_of_a_converted_model(published, converted, tmp_path, capsys):
  status, line = failure(capsys, "train", f"--model_dir={converted}")
  assert status == 1 and "not how to train it" in line and f"--gin_file={converted}/config.gin" in line
  status, line = failure(capsys, "report", f"--model_dir={converted}")
  assert status == 1 and "no validation metrics" in line
  status, line = failure(capsys, "eval", f"--model_dir={converted}")
  assert status == 1 and "LocalText.files is not set" in line
  status, line = failure(capsys, "convert", "--from=transfo_xl", f"--input={published[0]}", f"--model_dir={converted}")
  assert status == 1 and "has a run already" in line
  status, line = failure(capsys, "convert", "--from=safetensors", f"--input={published[0]}",
                         f"--model_dir={tmp_path}/new")
  assert status == 1 and "choose what gpt4x export wrote" in line


def test_without_a_vocabulary(published, tmp_path, capsys):
  _, config, tensors = published
  hugging_face.write(tmp_path / "hf", config, tensors)
  assert cli.main(["convert", "--from=transfo_xl", f"--input={tmp_path}/hf", f"--model_dir={tmp_path}/model"]) == 0
  assert "has no vocabulary, so" in capsys.readouterr().err
  status, line = failure(capsys, "generate", f"--model_dir={tmp_path}/model", "--prompt=the")
  assert status == 1 and "cannot load a vocabulary" in line
  (tmp_path / "hf" / "vocab.txt").write_text("\n".join([*WORDS, "one", "more"]))
  status, line = failure(capsys, "convert", "--from=transfo_xl", f"--input={tmp_path}/hf", f"--model_dir={tmp_path}/b")
  assert status == 1 and f"{tmp_path}/hf: the vocabulary has 26 ids, and the model 24" in line


def test_gin_text_that_is_none(converted, tmp_path, capsys):
  run(capsys, "export", f"--model_dir={converted}", f"--output={tmp_path}/out")
  (tmp_path / "out" / "config.gin").write_bytes(b"# \xff")
  status, line = failure(capsys, "convert", "--from=safetensors", f"--input={tmp_path}/out",
                         f"--model_dir={tmp_path}/m")
  assert status == 1 and f"{tmp_path}/out/config.gin is not UTF-8 at byte 2: copy it again" in line


def test_export_and_convert_back(converted, tmp_path, capsys):
  """A trained mixture of experts on bytes, and a converted model of words."""
  flags = corpus.flags(corpus.write(tmp_path / "text"), tmp_path / "run", TRAIN_STEPS=2, EVAL_PERIOD=2, EVAL_STEPS=None,
                       TransformerConfig__moe=corpus.Reference("@MoEConfig()"), MoEConfig__num_experts=4)
  run(capsys, *flags)
  for model in (tmp_path / "run", converted):
    out, back = tmp_path / f"{model.name}-out", tmp_path / f"{model.name}-back"
    run(capsys, "export", f"--model_dir={model}", f"--output={out}")
    status, line = failure(capsys, "export", f"--model_dir={model}", f"--output={out}")
    assert status == 1 and "is there already" in line
    run(capsys, "convert", "--from=safetensors", f"--input={out}", f"--model_dir={back}")
    run(capsys, "export", f"--model_dir={back}", f"--output={tmp_path}/{model.name}-again")
    again = safetensors.numpy.load_file(tmp_path / f"{model.name}-again" / "model.safetensors")
    for name, tensor in safetensors.numpy.load_file(out / "model.safetensors").items():
      np.testing.assert_array_equal(tensor, again[name], err_msg=name)
    prompt = ("generate", "--prompt=the w1", "--max_tokens=8")
    assert run(capsys, *prompt, f"--model_dir={back}") == run(capsys, *prompt, f"--model_dir={model}")
