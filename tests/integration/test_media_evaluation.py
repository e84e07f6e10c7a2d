"""What a person sees of a model of pictures: training, eval and report, as the commands are typed."""

import base64
import json
import pathlib

import pytest

from gpt4x import cli
from gpt4x.media.files import images
from gpt4x.training.metrics import read_metrics
from tests import html_pages
from tests.evaluation import media_tasks
from tests.integration import corpus
from tests.training.test_events import shown_in

GIN_FILE = pathlib.Path(media_tasks.__file__).with_name("media.gin")


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory):
  """JSON-lines for training and validation, of pictures with labels."""
  folder = tmp_path_factory.mktemp("pictures")
  for split, first, count in (("train", 0, 12), ("validation", 50, 6)):
    lines = []
    for i in range(first, first + count):
      images.write(media_tasks.image(media_tasks.label_of(i), i), folder / f"{i}.png")
      lines.append(json.dumps({"image": f"{i}.png", "text": media_tasks.label_of(i)}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
  return folder


def train(model_dir, files, *flags):
  return cli.main(["train", f"--gin_file={GIN_FILE}", f"--model_dir={model_dir}",
                   f"--gin.LocalMedia.files='{files}/train.jsonl'",
                   f"--gin.LocalMedia.validation_files='{files}/validation.jsonl'", *flags])


@pytest.fixture(scope="module", name="run")
def _run(files, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("run") / "run"
  assert train(model_dir, files) == 0
  return model_dir


def told(capsys, *arguments):
  capsys.readouterr()
  assert cli.main(list(arguments)) == 0, capsys.readouterr().err
  return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}


@pytest.mark.parametrize("flag, words", [
    ("image='nowhere'", ["MediaTokens.image = 'nowhere'", "no codec in nowhere", "gpt4x export", "one of grey, rgb"]),
    ("sizes=3", ["train.jsonl:1: ", "0.png: the image has 4 x 4 cells", "MediaTokens.sizes = 3", "image_size"]),
    ("audio='pcm:8000'", ["TransformerConfig.vocab_size = 536", "the 1047 ids", "at least 1047"])])
def test_training_with_a_wrong_vocabulary_is_one_line(files, tmp_path, capsys, flag, words):
  assert train(tmp_path / "new", files, f"--gin.MediaTokens.{flag}") in (1, 2)
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("gpt4x: error: ") and all(word in line for word in words), line


def test_a_run_goes_on_with_its_own_codec_alone(run, files, capsys):
  """One of another fingerprint is told of, though it has as many ids."""
  before = read_metrics(str(run))
  assert train(run, files, "--gin.MediaTokens.image='rgb'", "--gin.TRAIN_STEPS=4") in (1, 2)
  line = capsys.readouterr().err.splitlines()[-1]
  assert all(word in line for word in ("image rgb", "image grey", str(run), "start in a new directory")), line
  assert read_metrics(str(run)) == before


def test_training_shows_what_it_makes(run):
  lines = read_metrics(str(run))
  for line in lines:
    assert {"loss_text", "loss_image", "loss_structure", "accuracy_image"} <= line.keys()
    assert not [name for name in line if "audio" in name or "video" in name]
    assert ("bits_per_dim" in line) == ("samples/complete" in line) == (line["split"] == "validation")
  found = shown_in(run)
  assert {tag: [step for step, _ in entries] for tag, (_, entries) in found.items()} == {"validation/samples": [0, 2]}
  assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_0", "step_2"]


def test_eval_draws_samples(run, capsys):
  plain = told(capsys, "eval", f"--model_dir={run}")
  assert not [name for name in plain if name.startswith("samples")]
  sheet = run / "samples" / "step_2" / "contact_sheet.png"
  sheet.unlink()
  found = told(capsys, "eval", f"--model_dir={run}", "--samples=6", "--gin.sample_media.temperature=0.5")
  assert {name: value for name, value in found.items() if not name.startswith("samples")} == plain
  assert {"samples/complete", "samples/cas", "samples/nearest_real"} <= found.keys()
  assert images.read(str(sheet)).pixels.shape[1] == 8 + 6 * 104


def test_the_report_has_the_sheet(run, capsys):
  assert cli.main(["report", f"--model_dir={run}"]) == 0
  assert "bits per dimension, step 2" in capsys.readouterr().out
  page = html_pages.check((run / "report.html").read_text())
  [source] = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
  assert base64.b64decode(source.partition(",")[2]) == (run / "samples" / "step_2" / "contact_sheet.png").read_bytes()


def test_shuffled_pictures_change_what_a_reader_of_them_says(files, tmp_path, capsys):
  """As a benchmark runs it: a model that names pictures, with its own and with those of others."""
  model_dir = tmp_path / "reader"
  flags = ["--gin.MIXTURE_OR_TASK_NAME='local_media_to_text'", "--gin.EVAL_PERIOD=None"]
  assert train(model_dir, files, *flags) == 0
  own = told(capsys, "eval", f"--model_dir={model_dir}")
  others = told(capsys, "eval", f"--model_dir={model_dir}", "--gin.evaluate.shuffle_media=True")
  assert own.keys() == others.keys() and own["tokens"] == others["tokens"]
  assert own["loss"] != others["loss"] and own["local_media_to_text/accuracy"] is not None


@pytest.mark.parametrize("flags, status, words", [
    (["--samples=0"], 2, "--samples: '0' is not a whole number of at least 1"),
    (["--gin.evaluate.samples=-1"], 2, "evaluate.samples = -1 must be at least 0"),
    (["--gin.evaluate.shuffle_media=True"], 2, "no media that differ"),
    (["--samples=2", "--gin.sample_media.temperature=-1.0"], 1, "temperature = -1.0 must be a number of at least 0")])
def test_wrong_requests_are_one_line(run, capsys, flags, status, words):
  assert cli.main(["eval", f"--model_dir={run}", *flags]) == status
  assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_model_of_text_makes_no_media(tmp_path, capsys):
  text = corpus.write(tmp_path / "text")
  assert cli.main(corpus.flags(text, tmp_path / "run", TRAIN_STEPS=1, EVAL_PERIOD=None)) == 0
  assert cli.main(["eval", f"--model_dir={tmp_path}/run", "--samples=2"]) == 1
  assert "the vocabulary of local_text_bytes has text alone: ask for none" in capsys.readouterr().err.splitlines()[-1]
  flags = corpus.flags(text, tmp_path / "other", TRAIN_STEPS=1, train__eval_samples=2)
  assert cli.main(flags) == 1 and "has text alone: ask for none" in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / "other" / "metrics.jsonl").exists(), "before anything is trained"
