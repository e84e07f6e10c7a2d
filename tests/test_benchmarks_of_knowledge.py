"""What the benchmarks of knowledge count, on a graph of a few triples; no model is trained here."""

import numpy as np
import pytest

from benchmarks.knowledge import embeddings, wn18rr

TRIPLES = {"train": ["a r b", "b r a", "c r a", "d s a", "e s e"], "valid": ["b r d"], "test": ["a r c", "b s d"]}


@pytest.fixture(name="source")
def _source(tmp_path):
  (tmp_path / "wn18rr").mkdir()
  for split, lines in TRIPLES.items():
    (tmp_path / "wn18rr" / f"{split}.txt").write_text("".join(line.replace(" ", "\t") + "\n" for line in lines))
  return str(tmp_path)


def test_the_rule_reverses_what_is_known(source):
  """c r a is known, and of the other names for c that it gives, b is a known answer. Of s, it names a alone for b."""
  middle_of_five, behind_one_in_the_middle_of_four = 3, 3.5
  assert wn18rr.rule_mrr(source) == pytest.approx(
      (1 + 1 + 1 / middle_of_five + 1 / behind_one_in_the_middle_of_four) / 4)


@pytest.mark.parametrize("entity, name", [
    ("land_reform.n.01", "land reform"), ("cover.v.01", "cover v1"), ("sugar.n.02", "sugar n2"), ("x", "x"),
    ("st._john.n.01", "st. john")])
def test_names_are_words(entity, name):
  assert wn18rr.name(entity) == name


def test_files_have_all_that_the_task_reads(source, tmp_path):
  wn18rr.write(source, tmp_path)
  assert (tmp_path / "names.tsv").read_text().splitlines()[0] == "a\ta"
  templates = (tmp_path / "templates.tsv").read_text().splitlines()
  assert "_hypernym\t{head} is a {tail}" in templates and "_hypernym\t{tail} includes {head}" in templates
  assert len(templates) == 2 * len(wn18rr.TEMPLATES)


def test_ranks_leave_out_what_is_known(source):
  graph = embeddings.read(source)
  assert (graph.entities, graph.relations) == (5, 2)
  scores = np.array([5.0, 4, 3, 2, 1])  # The same for each question: a is best.
  found = embeddings.mrr(graph, "test", lambda entity, relation: np.tile(scores, (len(entity), 1)), rows=3)
  # a r c: behind a alone, as b is known. b s d: fourth. ? r c: a is best. ? s d: b is second.
  assert found == pytest.approx((1 / 2 + 1 / 4 + 1 + 1 / 2) / 4)
