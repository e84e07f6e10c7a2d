"""What the benchmarks of fine-tuning and of knowledge count, on files that are known; no model is trained here."""

import gzip
import json
import types

import jax
import numpy as np
import pytest

from benchmarks import continuations, quickstart
from benchmarks.knowledge import facts, infilling
from benchmarks.posttraining import fields, grpo, low_rank
from gpt4x.data import vocabularies
from gpt4x.data.vocabularies import MarkedVocabulary, Marks
from tests.models import tiny

STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 Sandra moved to the garden.
2 Where is Sandra? \tgarden\t1
"""


@pytest.fixture(name="stories")
def _stories(tmp_path):
  (tmp_path / "qa1.txt").write_text(STORY)
  return fields.babi(tmp_path / "qa1.txt")


def test_a_question_has_its_story_and_the_sentence_that_tells(stories):
  assert [one.answer for one in stories] == [
      "bathroom, for Mary moved to the bathroom.", "hallway, for Daniel went back to the hallway.",
      "garden, for Sandra moved to the garden."]
  assert stories[1].prompt == ("Mary moved to the bathroom.\nJohn went to the hallway.\nDaniel went back to the"
                               " hallway.\nWhere is Daniel?\n")
  assert stories[2].prompt.count("\n") == 2, "another story begins"


def test_places_and_reasons_are_counted(stories, monkeypatch):
  said = {"base": ["kitchen", "hallway", ""], "tuned": [
      "bathroom, for Mary moved to the bathroom.", " hallway, for John went to the hallway.", "kitchen"]}
  monkeypatch.setattr(fields, "STORIES", 3)
  monkeypatch.setattr(fields, "tuned", lambda *_: "tuned")
  monkeypatch.setattr(fields, "written", lambda bench, model, held_out, seed: [
      said[model][stories.index(one)] for one in held_out])
  before, after, reasons, lasts = fields.of_education(None, "base", stories, stories, 0)
  assert (before, after) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
  assert reasons == 50 and lasts == pytest.approx(200 / 3), "Mary's is not the place said last"


def test_answers_of_medicine_are_those_held_out(monkeypatch):
  questions = [fields.Question(f"{i}", fields.CHOICES[i % 3]) for i in range(30)]
  monkeypatch.setattr(fields, "HELD_OUT", 12)
  asked = []
  monkeypatch.setattr(fields, "tuned", lambda bench, name, base, seen, *_: asked.append(seen) or "tuned")
  monkeypatch.setattr(fields, "likeliest", lambda bench, model, prompts: [
      int(prompt) % 3 if model == "tuned" else 0 for prompt in prompts])
  before, after, yes = fields.of_medicine(None, "base", questions, 0)
  assert after == 100 and before == yes and len(asked[0]) == 18
  assert fields.of_medicine(None, "base", questions, 1)[2] != yes or asked[0] != asked[1], "each seed has its own"


def test_prompts_of_rewards_are_on_one_side_alone(tmp_path, monkeypatch):
  lines = [f"line number {i} of the text".encode() for i in range(50)]
  monkeypatch.setattr(quickstart, "write_corpus", lambda folder: None)
  monkeypatch.setattr(quickstart, "read_corpus", lambda folder, split: [b"\n".join([*lines, b"short", lines[0]])])
  grpo.write(str(tmp_path))
  read = lambda name: [json.loads(line)["prompt"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
  assert len(read("train")) == len(read("validation")) == 25 and not set(read("train")) & set(read("validation"))


def test_spans_are_inside_their_parts(tmp_path, monkeypatch):
  text = "".join(f"{i:05} " for i in range(4000))
  monkeypatch.setattr(quickstart, "write_corpus", lambda folder: None)
  monkeypatch.setattr(quickstart, "read_corpus", lambda folder, split: [text.encode()] if split == "validation" else [])
  found = infilling.cut(str(tmp_path), 40)
  assert len(found) == 40 and len(set(map(tuple, found))) == 40
  for before, span, behind in found:
    assert "".join((before, span, behind)) in text and 10 <= len(span) <= 60 and min(len(before), len(behind)) >= 40
  vocabulary = MarkedVocabulary(Marks(spans=2)).held()
  vocabularies.save(vocabulary, tmp_path)
  for task, last, said in (("stdlib_infill", vocabulary.mark("<middle>"), None), ("ul2", vocabulary.span_id(0), 1)):
    pairs = infilling.encoded(str(tmp_path), found[:1], task)
    ((left, span),), ((between, same),) = pairs["left"][0], pairs["between"][0]
    assert vocabulary.decode(left) == found[0][0] and span == same and between[-1] == last
    assert pairs["left"][1] is None and pairs["between"][1] == said
  assert "between" not in infilling.encoded(str(tmp_path), found, "stdlib_marked")


@pytest.mark.parametrize("said", [None, 1])
def test_likelihoods_are_those_of_rows_as_training_has_them(monkeypatch, said):
  """Of a stream, or of examples whose inputs see each other and not what is said."""
  model = tiny.make()
  restored = types.SimpleNamespace(language_model=model.lm, restore_params=lambda *_: (0, model.params))
  monkeypatch.setattr("gpt4x.commands.reading.saved_experiment", lambda directory, data: restored)
  monkeypatch.setattr("gpt4x.data.vocabularies.load", lambda directory: None)
  monkeypatch.setattr("gpt4x.data.vocabularies.start_id", lambda vocabulary: 0)
  pairs = [([3, 4, 5, 9], [1, 2]), ([7, 9], [6, 6, 8])]
  found = continuations.log_likelihoods("somewhere", pairs, said)
  for (prompt, answer), score in zip(pairs, found):
    row, inputs = np.array([[0, *prompt, *answer[:-1]]]), 0 if said is None else len(prompt)  # With the start.
    logits, _ = model.lm.logits(model.params, row, model.lm.initial_memory(1, 0), np.ones_like(row),
                                (np.arange(row.size) < inputs)[None].astype(np.int32))
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0, len(prompt):]
    assert score == pytest.approx(log_probs[np.arange(len(answer)), answer].sum(), rel=1e-4)


@pytest.fixture(name="source")
def _source(tmp_path):
  """The files of the public sets that these read, with a few lines each."""
  for folder in ("wn18rr", "wikitext-2", "tasks"):
    (tmp_path / folder).mkdir()
  (tmp_path / "wn18rr" / "train.txt").write_text("land_reform.n.01\t_hypernym\treform.n.02\n" * 2)
  (tmp_path / "wn18rr" / "valid.txt").write_text("a.b.n.03\t_verb_group\treform.n.02\n")
  (tmp_path / "wikitext-2" / "train.txt.gz").write_bytes(gzip.compress(f" = Title = \n {'a word ' * 40}\n".encode()))
  (tmp_path / "wikitext-2" / "valid.txt").write_text("held out " * 40 + "\n")
  (tmp_path / "tasks" / "pubmed_qa_labeled.jsonl").write_text("".join(
      json.dumps({"context": f"abstract {i} ", "continuation": "yes"}) + "\n" for i in range(110)))
  return tmp_path


def test_facts_have_words_and_text_has_paragraphs(source, tmp_path):
  facts.write(source, tmp_path)
  assert (tmp_path / "train.tsv").read_text() == "land reform 1\t_hypernym\treform 2\n"
  assert (tmp_path / "valid.tsv").read_text() == "a.b 3\t_verb_group\treform 2\n"
  assert [json.loads(line)["text"][:6] for line in (tmp_path / "text.jsonl").read_text().splitlines()] == ["a word"]
  assert "land reform 1" in (tmp_path / "pieces.jsonl").read_text() and "held out" not in (
      tmp_path / "pieces.jsonl").read_text()


def test_facts_take_an_eighth_of_the_rows():
  found = facts.parts()
  assert repr(found["RowMixture.parts"]) == "{'text': @text/DatasetConfig(), 'triples': @triples/DatasetConfig()}"
  assert (found["text/DatasetConfig.batch_size"], found["triples/DatasetConfig.batch_size"]) == (56, 8)


def test_gains_and_taxes_are_against_text_alone(monkeypatch, tmp_path):
  monkeypatch.setattr(facts, "write", lambda *_: None)
  one = {"text_cloze": 0.1, "mixed_cloze": 0.3, "adapter_cloze": 0.2, "text_bits": 2.0, "mixed_bits": 2.01}
  bench = types.SimpleNamespace(source=".", folder=tmp_path, gpt4x=lambda *_, **__: "",
                                each_seed=lambda measure, kept: [one, one, one])
  gain, adapter, tax = facts.rows(bench)
  assert (gain.value, adapter.value, tax.value) == (pytest.approx(20), pytest.approx(10), pytest.approx(0.5))
  assert gain.met and tax.met


def test_questions_held_out_are_no_text_to_train_on(source, tmp_path):
  low_rank.write(source, tmp_path)
  read = lambda name: (tmp_path / f"{name}.jsonl").read_text().splitlines()
  assert (len(read("base")), len(read("train")), len(read("validation"))) == (1, 10, 100)
  assert not set(read("train")) & set(read("validation"))
