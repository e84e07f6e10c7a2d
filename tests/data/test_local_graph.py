"""Graphs of knowledge: what files say, what is asked of it, what is known beside it, and what is never told."""

import bz2
import gzip
import itertools
import json
import random

import gin
import numpy as np
import pytest
import seqio

from gpt4x.data import triple_graph, triple_phrases
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.local_graph import LocalGraph, LocalGraphSource, question_ids, triple_tokens
from gpt4x.data.triple_files import Triple
from gpt4x.data.triple_graph import Graph, Neighbourhood, Question, Text
from gpt4x.data.triple_phrases import Phrases
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401

BYTES = seqio.ByteVocabulary()


def write(path, lines):
  path.write_text("".join("\t".join(line) + "\n" for line in lines))
  return str(path)


@pytest.fixture(name="graph_of")
def _graph_of(tmp_path):
  """The graph of triples for training and for validation."""
  def make(train, validation=(("v", "r", "w"),), **options) -> Graph:
    return LocalGraph(write(tmp_path / "train.tsv", train), write(tmp_path / "valid.tsv", validation), **options).read()

  return make


def random_triples(count, entities=12, relations=2, seed=0):
  rng = random.Random(seed)
  draw = lambda kind, limit: f"{kind}{rng.randrange(limit)}"
  return list(dict.fromkeys((draw("e", entities), draw("r", relations), draw("e", entities)) for _ in range(count)))


# Files.


def test_lines_are_triples(graph_of, tmp_path):
  names = write(tmp_path / "names.tsv", [("a", "An  A", "the first"), ("b", "A B")])
  graph = graph_of([("a", "r", "b"), ("a", "r", "b"), ("b", "s", "c")], names=names)
  assert graph.triples["train"] == [Triple("a", "r", "b"), Triple("b", "s", "c")] and not graph.triples["test"]
  assert [graph.name(one) for one in "abc"] == ["An A", "A B", "c"]
  assert graph.entities == ["a", "b", "c", "v", "w"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes])
def test_packed_files_are_read(tmp_path, pack):
  for i in range(3):
    (tmp_path / f"{i}.tsv.packed").write_bytes(pack(f"a\tr\tb{i}\n\n".encode()))
  graph = LocalGraph(str(tmp_path / "*.packed")).read()
  assert sum(map(len, graph.triples.values())) == 3


def entity(number, claims=None, label=None, **more):
  snak = lambda value: {"mainsnak": {"datavalue": {"value": value}}}
  return {"id": f"Q{number}", "labels": {"en": {"value": label or f"thing {number}"}}, **more,
          "claims": {kind: [one if "mainsnak" in one else snak(one) for one in some]
                     for kind, some in (claims or {}).items()}}


def test_a_dump_of_wikidata_is_read(tmp_path):
  value = lambda **value: value
  entities = [
      entity(1, {"P31": [value(id="Q5"), {"mainsnak": {"datavalue": {"value": {"id": "Q6"}}}, "rank": "deprecated"}],
                 "P569": [value(time="+1952", precision=11)], "P18": [{"mainsnak": {"datavalue": {"value": "a.jpg"}}}],
                 "P40": [{"mainsnak": {"snaktype": "novalue"}}]}, descriptions={"en": {"value": "a writer"}}),
      entity(5, {"P279": [{"mainsnak": {"datavalue": {"value": {"entity-type": "item", "numeric-id": 7}}}}]}),
      {"id": "P31", "labels": {"de": {"value": "ist ein"}, "mul": {"value": "is a"}}, "claims": []}]
  (tmp_path / "dump.json").write_text("[\n" + ",\n".join(map(json.dumps, entities)) + "\n]\n")
  local = LocalGraph(str(tmp_path / "dump.json"))
  graph = local.read()
  assert sorted(itertools.chain(*graph.triples.values())) == [Triple("Q1", "P31", "Q5"), Triple("Q5", "P279", "Q7")]
  assert {one: graph.name(one) for one in graph.entities} == {"Q1": "thing 1", "Q5": "thing 5", "Q7": "Q7"}
  assert dict(local.descriptions) == {"Q1": "a writer"}


@pytest.mark.parametrize("lines, message", [
    ("a\tr\tb\na\tr\n", "train.tsv:2: 2 fields, and not head<TAB>relation<TAB>tail: correct it, or set "
                        "LocalGraph.on_bad_record = 'skip'"),
    ("a\tr\tb\na\tr\t \n", "train.tsv:2: 3 fields with one that is empty"),
    ("a\tr\tb\n\xff\n", "train.tsv:2: not UTF-8 at byte 0 of the line"),
    ('[\n{"id": "Q1"},\n{"id": 3}\n]', "train.tsv:3: not an entity such as"),
    ('[\n{"id": "Q1"},\n{"id": "Q2",\n', "train.tsv:3: no JSON of an entity"),
    ('{"id": "Q1", "claims": {"P1": [{"rank": "normal"}]}}', "train.tsv:1: not an entity such as"),
    ('{"id": "Q1", "labels": "x"}', "train.tsv:1: not an entity such as"),
])
def test_a_bad_line_is_named(tmp_path, capfd, lines, message):
  (tmp_path / "train.tsv").write_bytes(lines.encode("latin-1"))
  (tmp_path / "valid.tsv").write_text("v\tr\tw\n")
  files = [str(tmp_path / f"{name}.tsv") for name in ("train", "valid")]
  with pytest.raises(UserError) as error:
    LocalGraph(*files).read()
  assert message in str(error.value) and len(str(error.value).splitlines()) == 1
  if lines.startswith("a"):
    assert LocalGraph(*files, on_bad_record="skip").read().triples["train"] == [Triple("a", "r", "b")]
    assert "skipped 1 bad records of 2" in capfd.readouterr().err


@pytest.mark.parametrize("name, lines, message", [
    ("names", ["a"], "1 fields, and not id<TAB>name"),
    ("names", ["a\tA", "a\tB"], "beside.tsv:2: 'a' is called 'A' above"),
    ("templates", ["r\tis a"], "has not {head} and {tail} once each"),
    ("templates", ["r\t{head} {tail}", "r\t{head}: {tail}"], "beside.tsv:2: 'r' has a template with the same end"),
])
def test_a_bad_line_beside_them_is_named(graph_of, tmp_path, name, lines, message):
  (tmp_path / "beside.tsv").write_text("\n".join(lines))
  with pytest.raises(UserError) as error:
    graph_of([("a", "r", "b")], **{name: str(tmp_path / "beside.tsv")})
  assert "beside.tsv:" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("options, message", [
    ({"files": ()}, "LocalGraph.files is not set; name files of triples"),
    ({"names": "no/*.tsv"}, "LocalGraph.names = 'no/"),
    ({"test_files": "train.tsv"}, "leaves no file to train on beside those for tests"),
    ({"test_files": "valid.tsv"}, "another parameter names too: name it once"),
    ({"validation_files": ()}, "leaves no triples for the split"),
])
def test_files_that_do_not_do(tmp_path, monkeypatch, options, message):
  monkeypatch.chdir(tmp_path)
  for name in ("train", "valid"):
    write(tmp_path / f"{name}.tsv", [("a", "r", "b")])
  with pytest.raises(UserError, match=message):
    LocalGraph(**{"files": "train.tsv", "validation_files": "valid.tsv", **options}).read()


@pytest.mark.parametrize("options", [{"neighbours": -1}, {"neighbours": 1.5}, {"on_bad_record": "mend"}])
def test_a_value_that_does_not_do(options):
  with pytest.raises(UserError, match=f"LocalGraph.{next(iter(options))} = "):
    LocalGraph(**options)


# Splits.


def test_a_part_is_held_out_with_its_reverse(tmp_path):
  triples = [(f"a{i}", "r", f"b{i}") for i in range(400)]
  triples += [(tail, "s", head) for head, _, tail in triples]
  graph = LocalGraph(write(tmp_path / "a.tsv", triples)).read()
  ends = {split: {frozenset((one.head, one.tail)) for one in some} for split, some in graph.triples.items()}
  assert not ends["train"] & ends["validation"] and 0.02 < len(ends["validation"]) / 400 < 0.08
  shuffled = random.Random(0).sample(triples, len(triples))
  again = LocalGraph(write(tmp_path / "b.tsv", shuffled)).read()
  assert {split: set(some) for split, some in again.triples.items()} == {
      split: set(some) for split, some in graph.triples.items()}


def test_what_is_tested_is_never_told(tmp_path, capfd):
  """Not in a training text, nor in the context of any question, even where a file for training has it too."""
  triples = random_triples(150, entities=15, relations=2)
  train, rest = triples[:80], triples[80:]
  validation, test = rest[::2], rest[1::2]
  files = [write(tmp_path / f"{name}.tsv", lines) for name, lines in (
      ("train", train + test[:5] + validation[:3]), ("valid", validation + test[5:8]), ("test", test))]
  graph = LocalGraph(files[0], files[1], files[2], neighbours=6).read()
  assert set(graph.triples["train"]) == graph.known == set(map(Triple._make, train))
  assert set(graph.triples["test"]) == set(map(Triple._make, test))
  assert "8 triples of LocalGraph.files are not trained on" in capfd.readouterr().err
  hidden = {*graph.triples["test"], *graph.triples["validation"]}
  told = {graph.sentence(question) for split in triple_graph.SPLITS for question in graph.questions(split)
          if question.triple in hidden}
  for split in triple_graph.SPLITS:
    for question in graph.questions(split):
      context = graph._neighbourhood.of(question, 100)
      assert not {one.triple for one in context} & (hidden | {question.triple})
      assert not told & set(graph.text(question).context)
  source = LocalGraphSource("documents", LocalGraph(files[0], files[1], files[2], neighbours=6))
  texts = [Text(*json.loads(record)) for _, record in source.records("train")]
  lines = {line for text in texts for line in (*text.context, text.prompt + text.answer)}
  assert lines and not lines & told


def test_a_neighbourhood_is_what_a_slow_search_finds():
  """Of what is known without the triple itself: reverses known that way alone, the same relation, then the others."""
  for seed in range(3):
    known = frozenset(map(Triple._make, random_triples(60, entities=8, relations=3, seed=seed)))
    neighbourhood = Neighbourhood(known)
    asked = [*known, *map(Triple._make, random_triples(20, entities=8, relations=3, seed=9))]
    for head, relation, tail in asked:
      for question in (Question(head, relation, False, tail), Question(tail, relation, True, head)):
        left = known - {question.triple}
        ends = {(one.relation, backwards, one.head if backwards else one.tail) for one in left
                for backwards in (False, True) if one[2 if backwards else 0] == question.entity}
        same = {one for one in ends if one[:2] == (relation, question.backwards)}
        reverse = {one for one in ends if one[:2] == (relation, not question.backwards)
                   and (relation, question.backwards, one[2]) not in same}
        others = {one for one in ends if one[0] != relation}
        found = [one[1:] for one in neighbourhood.of(question, 1000)]
        assert set(found[:len(reverse)]) == reverse - {(relation, not question.backwards, question.entity)} or \
            question.entity in (head, tail) and head == tail
        assert set(found[len(reverse):len(reverse) + len(same)]) == same
        assert set(found[len(reverse) + len(same):]) == others and len(set(found)) == len(found)
        for count in range(4):
          assert [one[1:] for one in neighbourhood.of(question, count)] == found[:count]


def test_an_order_does_not_tell_the_answer():
  """A question's context is the same whether its triple is trained on or not, as long as the rest is the same."""
  known = frozenset(map(Triple._make, random_triples(60, entities=8, relations=2)))
  for triple in known:
    without = Neighbourhood(known - {triple})
    for question in (Question(triple.head, triple.relation, False, triple.tail),
                     Question(triple.tail, triple.relation, True, triple.head)):
      assert Neighbourhood(known).of(question, 4) == without.of(question, 4)


# Words.


@pytest.mark.parametrize("relation, words", [
    ("_member_meronym", "member meronym"), ("/people/person/place_of_birth", "place of birth"),
    ("isLocatedIn", "is located in"), ("http://x.org/y#partOf", "part of"), ("P31", "P31"), ("NASA_id", "NASA id"),
    ("_", "_"), ("capital", "capital")])
def test_a_relation_has_readable_words(relation, words):
  assert triple_phrases.readable(relation) == words


@pytest.mark.parametrize("templates, forwards, backwards", [
    ({}, ("A, is in:", " B"), ("B, is in of:", " A")),
    ({("is_in", False): "{head} lies in {tail}."}, ("A lies in", " B."), ("B, is in of:", " A")),
    ({("is_in", False): "In {head}|{tail}", ("is_in", True): "What {tail} has:  {head}!"},
     ("In A|", "B"), ("What B has:", "  A!"))])
def test_a_triple_is_asked_from_either_end(templates, forwards, backwards):
  phrases = Phrases(templates)
  for (prompt, answer), phrase, ends in ((forwards, phrases("is_in"), "AB"), (backwards, phrases("is_in", True), "BA")):
    assert (phrase.prompt(ends[0]), phrase.answer(ends[1])) == (prompt, answer)


# Tasks.


@pytest.fixture(name="dataset")
def _dataset(tmp_path):
  def make(train, task="local_triple_questions_bytes", length=64, converter="lm", bindings=(), **options) -> Dataset:
    files = [write(tmp_path / f"{name}.tsv", lines) for name, lines in (
        ("train", train), ("valid", [("v", "r", "w")]))]
    gin.parse_config([f"LocalGraph.files = {files[0]!r}", f"LocalGraph.validation_files = {files[1]!r}", *bindings])
    return Dataset(DatasetConfig(task, {"targets": length}, 2, converter, **options))

  return make


def test_answers_alone_are_weighted(dataset):
  batch = next(dataset([("a", "r", "b")]).evaluation("validation"))
  for row, (prompt, answer) in enumerate((("v, r:", " w"), ("w, r of:", " v"))):
    prompt, answer = BYTES.encode(prompt), [*BYTES.encode(answer), 1]
    count = len(prompt) + len(answer)
    assert batch["decoder_target_tokens"][row, :count].tolist() == [*prompt, *answer]
    assert batch["decoder_loss_weights"][row].tolist() == [0] * len(prompt) + [1] * len(answer) + [0] * (64 - count)
    assert batch["decoder_segment_ids"][row].tolist() == [1] * count + [0] * (64 - count)


def test_documents_are_all_that_is_known_from_both_ends(dataset, tmp_path):
  names = write(tmp_path / "names.tsv", [("a", "A", "a letter"), ("z", "Z", "is nowhere")])
  data = dataset([("a", "r", "b"), ("b", "s", "c")], "local_triples_bytes", converter="stream",
                 bindings=[f"LocalGraph.names = {names!r}"])
  texts = sorted(data.vocabulary.decode(tokens.tolist()) for tokens in data.documents("train"))
  assert texts == ["A, r: b", "A: a letter", "b, r of: A", "b, s: c", "c, s of: b"]
  assert all(tokens[-1] == 1 for tokens in data.documents("train"))
  assert sorted(data.vocabulary.decode(tokens.tolist()) for tokens in data.documents("validation")) == [
      "v, r: w", "w, r of: v"]


def test_a_vocabulary_with_marks_has_the_same_text(dataset):
  data = dataset([("a", "r", "b")], "local_triples_marked", converter="stream")
  texts = sorted(data.vocabulary.decode(tokens.tolist()) for tokens in data.documents("train"))
  assert texts == ["a, r: b", "b, r of: a"]
  assert data.vocabulary.vocab_size > 300


def test_a_context_is_cut_and_not_the_answer(dataset):
  triples = [("a", f"r{i}", "bb") for i in range(5)]
  whole = "".join(f"{line}\n" for line in ("a, r0: bb", "a, r1: bb", "a, r3: bb"))
  data = dataset(triples, bindings=["LocalGraph.neighbours = 3"], length=64)
  rows = {bytes(one - 3 for one in row if one > 2).decode(): weights for batch in itertools.islice(data.train(), 20)
          for row, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"])}
  assert f"{whole}a, r2: bb" in rows
  for length, lines in ((20, 1), (19, 0), (29, 1), (30, 2)):
    prompt, answer = question_ids(Text(tuple(whole.splitlines()), "a, r2:", " bb"), BYTES, length)
    assert BYTES.decode(prompt) == "".join(whole.splitlines(True)[:lines]) + "a, r2:"
    assert BYTES.decode(answer) == " bb" and len(prompt + answer) <= length


def test_the_preprocessor_knows_its_room():
  import tensorflow as tf
  record = json.dumps(Text(("x" * 9,), "p", "a"))
  features = {"targets": seqio.Feature(BYTES), "weights": seqio.Feature(seqio.PassThroughVocabulary(2))}
  for length, size in ((None, 13), ({"targets": 13}, 13), ({"targets": 12}, 3)):
    made = triple_tokens(tf.data.Dataset.from_tensors({"record": record}), features, length)
    one, = made.as_numpy_iterator()
    assert len(one["targets"]) == len(one["weights"]) == size and one["weights"].sum() == 2


def test_a_split_that_there_is_not(dataset):
  data = dataset([("a", "r", "b")])
  with pytest.raises(UserError, match="no triples for the split test: set LocalGraph.test_files"):
    next(data.evaluation("test"))


@pytest.mark.parametrize("change", ["data", "names", "neighbours"])
def test_a_resumed_run_knows_its_data(dataset, tmp_path, change):
  triples = [("a", "r", f"b{i}") for i in range(7)]
  batches = dataset(triples).train()
  _, state, expected = next(batches), batches.get_state(), [next(batches) for _ in range(5)]
  again = dataset(triples).train()
  again.set_state(state)
  for batch in expected:
    assert all(np.array_equal(value, other) for value, other in zip(batch.values(), next(again).values()))
  bindings = {"data": [], "neighbours": ["LocalGraph.neighbours = 2"],
              "names": [f"LocalGraph.names = {write(tmp_path / 'names.tsv', [('a', 'A')])!r}"]}
  changed = dataset(triples + [("c", "r", "d")] * (change == "data"), bindings=bindings[change]).train()
  with pytest.raises(UserError, match="local_triple_questions_bytes/train"):
    changed.set_state(state)
