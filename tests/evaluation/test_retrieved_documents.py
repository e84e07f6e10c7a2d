"""Examples with documents ahead: where these stand in a row, what they do to the likelihood, what is passed over."""

import dataclasses

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.commands import reading
from gpt4x.data import document_index, prepared
from gpt4x.errors import UserError
from gpt4x.evaluation.likelihood import evaluate
from gpt4x.evaluation.retrieved_documents import Retrieved
from gpt4x.inference.retrieval import Retriever, Vectors
from gpt4x.partitioning import Partitioner
from tests.inference import text_run

DOCUMENTS = [("mary", "Mary is in the garden\n"), ("john", "John is at home"), ("sun", "the sun " * 30),
             ("leak", "Bill here? no, he has gone")]
QUESTIONS = [("Where is Mary?", " garden"), ("Where is John?", " home"), ("zebra", " no"), ("Bill here?", " no")]
SEEN = {}
VOCABULARY = seqio.ByteVocabulary()
LENGTHS = {"inputs": 24, "targets": 24}


def predictions(targets, predictions):
  return {"exact": np.mean([a == b for a, b in zip(targets, predictions)])}


def scores(targets, scores):
  SEEN["scores"] = scores
  return {"mean_score": np.mean(scores)}


@pytest.fixture(scope="module", name="task")
def _task():
  """Questions with inputs and targets, and metrics."""
  def dataset(split, shuffle_files, seed=None):
    inputs, targets = zip(*QUESTIONS)
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})

  seqio.TaskRegistry.add(
      "questions_for_test", source=seqio.FunctionDataSource(dataset, splits=("validation",)),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
      output_features={"inputs": seqio.Feature(VOCABULARY, add_eos=False), "targets": seqio.Feature(VOCABULARY)},
      metric_fns=[predictions, scores])
  yield "questions_for_test"
  seqio.TaskRegistry.remove("questions_for_test")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory, task):
  """A run, and an index of documents by words and one by vectors of the run's model."""
  folder = tmp_path_factory.mktemp("retrieval")
  text_run.write(folder / "run", DatasetConfig__mixture_or_task_name=task, DatasetConfig__feature_converter="causal_lm",
                 DatasetConfig__task_feature_lengths=LENGTHS, DatasetConfig__batch_size=4)
  with prepared.new_folder(folder / "words") as made:
    document_index.build(made, DOCUMENTS)
  vectors = Vectors(reading.saved_experiment(str(folder / "run")), str(folder / "run"))
  with prepared.new_folder(folder / "both") as made:
    document_index.build(made, DOCUMENTS, vectors, {"step": vectors.step, "checksum": vectors.checksum})
  return folder


def ids(text):
  return list(VOCABULARY.encode(text))


def experiment(folder, converter="causal_lm", **changes):
  found = reading.saved_experiment(str(folder / "run"))
  return dataclasses.replace(found, dataset=dataclasses.replace(found.dataset, feature_converter=converter, **changes))


def test_documents_are_written_ahead(folder):
  retriever = Retriever(str(folder / "words"), experiment(folder), str(folder / "run"), count=2)
  ahead = retriever.ahead("Where is Mary or John?", 99)
  assert {one.name for one in ahead.documents} == {"mary", "john"} and not ahead.cut
  best, second = ahead.documents
  line = lambda one: ids(one.text.rstrip("\n") + "\n")
  assert ahead.ids == line(second) + line(best)  # The best stands next to the question.
  room = len(line(best)) + 3
  cut = retriever.ahead("Where is Mary or John?", room)
  assert cut.ids == line(second)[:3] + line(best) and cut.cut == [second.name]
  assert retriever.ahead("Where is Mary?", 0).ids == [] and retriever.ahead("zebra", 99) == ([], [], [])


@pytest.mark.parametrize("converter", ["causal_lm", "prefix_lm"])
def test_the_likelihood_of_answers_with_documents_in_view(folder, monkeypatch, converter):
  """The loss and the scores are those of the document, the question and the answer as one text."""
  trial = experiment(folder, converter)
  mesh = Partitioner(data=1, num_devices=1)
  plain = evaluate(str(folder / "run"), trial, mesh)
  assert "retrieved" not in plain
  before = list(SEEN["scores"])
  found = evaluate(str(folder / "run"), trial, mesh, retrieve=str(folder / "words"))
  assert found["tokens"] == plain["tokens"] == sum(len(ids(answer)) + 1 for _, answer in QUESTIONS)
  assert found["retrieved"] == 0.5 and found["loss"] != plain["loss"]
  _, params = trial.restore_params(str(folder / "run"), mesh)
  model, total = trial.language_model, 0.0
  ahead = ["Mary is in the garden\n", "John is at home\n", "", ""]
  for number, ((question, answer), document) in enumerate(zip(QUESTIONS, ahead)):
    prompt, targets = ids(document) + ids(question), [*ids(answer), 1]
    whole = np.array([prompt + targets])
    inputs = np.pad(whole, ((0, 0), (1, 60 - whole.shape[1])))[:, :-1]
    prefix = (np.arange(inputs.shape[1]) <= len(prompt)).astype(np.int32)[None] if converter == "prefix_lm" else None
    logits = _logits(model, params, inputs, prefix)
    score = sum(logits[len(prompt) + i, token] for i, token in enumerate(targets))
    np.testing.assert_allclose(SEEN["scores"][number], score, rtol=1e-4)
    assert (before[number] == SEEN["scores"][number]) == (not document)
    total += score
  np.testing.assert_allclose(found["loss"], -total / found["tokens"], rtol=1e-4)


def _logits(model, params, inputs, prefix):
  global _run
  _run = _run or jax.jit(lambda params, inputs, prefix: jax.nn.log_softmax(model.logits(
      params, inputs, model.initial_memory(1, 0), prefix=prefix)[0][0]))
  return np.asarray(_run(params, inputs, prefix))


_run = None


def test_a_document_that_is_the_example_is_passed_over(folder, capsys):
  retrieved = Retrieved(experiment(folder), str(folder / "run"), None, str(folder / "words"))
  rows = list(retrieved.batches(retrieved.experiment.data.evaluation("validation")))
  assert len(rows) == 1 and retrieved.report() == {"retrieved": 0.5}
  assert "for 1 of 4 examples a document was passed over that holds the very prompt" in capsys.readouterr().err


def row(question, answer, length=32):
  """A row as the converter `lm` lays out a conversation."""
  tokens = ids(question) + ids(answer)
  pad = lambda values: np.pad(np.array(values, np.int32), (0, length - len(values)))
  return {"decoder_target_tokens": pad(tokens), "decoder_input_tokens": pad([0, *tokens[:-1]]),
          "decoder_segment_ids": pad([1] * len(tokens)),
          "decoder_loss_weights": pad([0] * len(ids(question)) + [1] * len(ids(answer))).astype(np.float32)}


def test_a_row_of_a_conversation(folder, capsys):
  retrieved = Retrieved(experiment(folder), str(folder / "run"), None, str(folder / "words"))
  padding = {name: np.zeros_like(value) for name, value in row("", "a").items()}
  given = [row("the sun?", " up"), row("zebra", " no"), padding]
  moved, same, padding = retrieved.rows(given)
  expected = row(("the sun " * 30)[:21] + "the sun?", " up")  # As much as there is room for.
  for name, values in expected.items():
    np.testing.assert_array_equal(moved[name], values)
    np.testing.assert_array_equal(same[name], given[1][name])
    np.testing.assert_array_equal(padding[name], given[2][name])
  assert retrieved.report() == {"retrieved": 0.5}
  assert "documents of 1 of 2 examples are cut at their end, for rows have 48 tokens" in capsys.readouterr().err


def test_vectors_are_the_model_s(folder, tmp_path):
  retriever = Retriever(str(folder / "both"), experiment(folder), str(folder / "run"))
  assert [one.name for one in retriever.find("John is at home")] == ["john"]
  text_run.write(tmp_path / "run", scale=1.01)
  with pytest.raises(UserError, match="vectors of .* are of other parameters .step 0, .*set Retrieval.by = 'words'"):
    Retriever(str(folder / "both"), experiment(folder), str(tmp_path / "run"))


@pytest.mark.parametrize("changes, words", [
    ({"feature_converter": "stream", "task_feature_lengths": {"targets": 8}}, "has no prompts alone to find")])
def test_what_has_no_prompts_is_refused(folder, changes, words):
  trial = reading.saved_experiment(str(folder / "run"))
  trial = dataclasses.replace(trial, dataset=dataclasses.replace(trial.dataset, **changes))
  with pytest.raises(UserError, match=words):
    Retrieved(trial, str(folder / "run"), None, str(folder / "words"))
