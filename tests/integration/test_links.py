"""`gpt4x links` as a user runs it: behind a training on triples, and on a model of other text."""

import json

import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.data import vocabularies
from gpt4x.data.local_graph import LocalGraph
from gpt4x.evaluation import link_prediction
from gpt4x.evaluation.link_prediction import LinkPredictor
from gpt4x.partitioning import Partitioner
from tests.integration import corpus

COUNT = 12


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A graph of neighbours on a ring, and a model that was trained on questions about it."""
  folder = tmp_path_factory.mktemp("links")
  line = lambda i, step: f"n{i}\tnext_{step}\tn{(i + step) % COUNT}\n"
  triples = [line(i, step) for step in (1, 2) for i in range(COUNT)]
  for name, some in (("train", triples[4:]), ("valid", triples[:2]), ("test", triples[2:4])):
    (folder / f"{name}.tsv").write_text("".join(some))
  bindings = {"MIXTURE_OR_TASK_NAME": "local_triple_questions_bytes", "DatasetConfig.feature_converter": "lm",
              "TASK_FEATURE_LENGTHS": {"targets": 64}, "TRAIN_STEPS": 2, "EVAL_PERIOD": None,
              "LocalGraph.files": str(folder / "train.tsv"),
              "LocalGraph.validation_files": str(folder / "valid.tsv"),
              "LocalGraph.test_files": str(folder / "test.tsv"), "LocalGraph.neighbours": 2}
  flags = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
  assert cli.main(["train", f"--gin_file={corpus.GIN_FILE}", f"--model_dir={folder / 'run'}", *flags]) == 0
  return folder


def links(folder, capfd, *flags):
  capfd.readouterr()
  status = cli.main(["links", f"--model_dir={folder / 'run'}", *map(str, flags)])
  captured = capfd.readouterr()
  return status, captured.out, captured.err


def test_links_prints_what_the_library_finds(folder, capfd):
  status, out, _ = links(folder, capfd, "--split=test", "--json")
  assert status == 0
  found = json.loads(out)
  experiment = reading.saved_experiment(str(folder / "run"))
  graph = LocalGraph().read()
  assert graph.neighbours == 2 and len(graph.triples["test"]) == 2
  step, params = experiment.restore_params(str(folder / "run"), Partitioner(data=1, num_devices=1))
  predictor = LinkPredictor(experiment, vocabularies.load(str(folder / "run")), graph)
  questions = link_prediction.sampled(graph, "test", None)
  ranks = predictor.ranks(params, questions)
  assert found == {"step": step, "split": "test", **link_prediction.measures(graph, questions, ranks)}
  assert found["questions"] == 4 and found["candidates"] == COUNT and found["no_reverse_questions"] == 4

  status, out, _ = links(folder, capfd, "--split=test")
  assert {line.split()[0]: line.split()[1] for line in out.splitlines()}["mrr"] == f"{found['mrr']:.6g}"
  status, out, _ = links(folder, capfd, "--split=test", "--json", "--beam=1", "--max_triples=1", "--seed=1")
  beam = json.loads(out)
  assert beam["questions"] == 2 and beam.get("mrr_at_least", beam["mrr"]) <= beam["mrr"]


@pytest.mark.parametrize("flags, message, expected", [
    (["--gin.LocalGraph.test_files=''", "--split=test"], "there are no triples for the split test", 2),
    (["--gin.LocalGraph.files='no/*.tsv'"], "LocalGraph.files = 'no/*.tsv'", 2),
    (["--gin.LocalGraph.neighbours=-1"], "LocalGraph.neighbours = -1", 2),
    (["--gin.TransformerConfig.vocab_size=50"], "the model knows 1 to 49", 1),
    (["--gin.DatasetConfig.feature_converter='prefix_lm'",
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 9}"], "both directions", 1),
    (["--split=train"], "invalid choice: 'train'", 2), (["--beam=0"], "--beam", 2)])
def test_a_mistake_is_one_line(folder, capfd, flags, message, expected):
  status, out, err = links(folder, capfd, *flags)
  assert status in (1, expected) and not out
  assert len(err.strip().splitlines()) == 1 and message in err, err


def test_a_graph_has_to_be_named(tmp_path, capfd, folder):
  corpus.write(tmp_path / "corpus")
  assert cli.main(corpus.flags(tmp_path / "corpus", tmp_path / "run", TRAIN_STEPS=2, EVAL_PERIOD=None)) == 0
  status, _, err = links(tmp_path, capfd)
  assert status and "LocalGraph.files is not set; name files of triples" in err and len(err.splitlines()) == 1
  status, out, _ = links(tmp_path, capfd, f"--gin.LocalGraph.files='{folder}/train.tsv'", "--max_triples=1")
  assert status == 0 and "questions 2\ncandidates 12\nmrr " in out
