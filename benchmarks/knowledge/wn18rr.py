"""Link prediction on WN18RR by a small decoder that reads what is known of an entity before it is asked about it.

The decoder (experiments/triples_tiny.gin, with 2,048 SentencePiece tokens) is trained on questions about the 86,835
training triples, for either end, with up to two other training triples of the entity before each: `gpt4x links` then
ranks all 41,105 names as answers of the 3,134 test triples, both ways. Known answers of other splits are left out, and
ties have their mean rank. The names are WordNet's, `land reform` for `land_reform.n.01` and `cover v1` for
`cover.v.01`. 32 beginnings of names are followed a token; candidates that are left out so and might be better count
with their mean rank, which is next to nothing for the figure (`mrr_at_least` and `mrr_at_most` are printed).

  wn18rr_mrr             the peer is the rule that reverses a known triple, .346
  wn18rr_mrr_no_reverse  of the questions whose reverse is not trained on, on which the rule has nothing to say
  wn18rr_rule_mrr        the rule itself, as it is measured here; for information

    python -m benchmarks.knowledge.wn18rr --data=DIR [--seeds=3] [--folder=DIR] [--dry_run]
"""

from collections.abc import Iterator
import json
import pathlib
import re
from typing import Any

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

RULE, PIECES, BEAM = 0.346, 2048, 32
TEMPLATES = {
    "_hypernym": ("is a", "includes"),
    "_instance_hypernym": ("is an instance of", "has the instance"),
    "_derivationally_related_form": ("gives", "comes from"),
    "_member_meronym": ("has the member", "is a member of"),
    "_has_part": ("has part", "is part of"),
    "_synset_domain_topic_of": ("is on the topic", "is the topic of"),
    "_member_of_domain_usage": ("is the usage of", "is used as"),
    "_member_of_domain_region": ("is the region of", "is from the region"),
    "_also_see": ("see also", "is seen from"),
    "_verb_group": ("groups with", "is grouped with"),
    "_similar_to": ("is similar to", "resembles"),
}
MODEL: dict[str, Any] = {
    "MIXTURE_OR_TASK_NAME": "local_triple_questions_spm", "TransformerConfig.vocab_size": PIECES,
    "TransformerConfig.embed_dim": 96, "TransformerConfig.mlp_dim": 384, "TransformerConfig.num_layers": 3,
    "TransformerConfig.tie_embeddings": True, "TransformerConfig.loss_chunk": 32, "LocalGraph.neighbours": 2,
    "TASK_FEATURE_LENGTHS": {"targets": 128}, "BATCH_SIZE": 32, "TRAIN_STEPS": 3000, "EVAL_PERIOD": 500,
    "EVAL_STEPS": 20, "CHECKPOINT_PERIOD": 500, "train.trackers": ()}


def rows(bench: runs.Bench) -> Iterator[Row]:
  rule = rule_mrr(bench.source)
  yield Row("knowledge/wn18rr_rule_mrr", rule, "MRR", RULE, rule / RULE)
  write(bench.source, bench.folder)
  graph = files(bench)
  bench.gpt4x("vocabulary", "--task=local_triples_bytes", f"--size={PIECES}", "--output=local_text_spm", **graph)

  def measure(seed: int) -> dict[str, Any]:
    directory = bench.train(f"run{seed}", "experiments/triples_tiny.gin", **graph, **MODEL, SEED=seed)
    printed = bench.gpt4x("links", f"--model_dir={directory}", "--split=test", f"--beam={BEAM}", "--json")
    print(printed, flush=True)
    return json.loads(printed.splitlines()[-1])

  found = bench.each_seed(measure, "links")
  for name, key, goal in (("wn18rr_mrr", "mrr", f"value > {RULE}"), ("wn18rr_mrr_no_reverse", "no_reverse_mrr", "")):
    value, error = quickstart.mean_and_error([one[key] for one in found])
    if len(found) == 1:
      error = found[0][f"{key}_error"]
    peer = RULE if goal else None
    yield Row(f"knowledge/{name}", value, "MRR", peer, value / peer if peer else None, error=error, goal=goal)


def files(bench: runs.Bench) -> dict[str, str]:
  """Bindings that read the graph."""
  folder = pathlib.Path(bench.source, "wn18rr")
  return {"LocalGraph.files": str(folder / "train.txt"), "LocalGraph.validation_files": str(folder / "valid.txt"),
          "LocalGraph.test_files": str(folder / "test.txt"), "LocalGraph.names": str(bench.folder / "names.tsv"),
          "LocalGraph.templates": str(bench.folder / "templates.tsv")}


def read(source: str, split: str) -> list[list[str]]:
  return [line.split("\t") for line in pathlib.Path(source, "wn18rr", f"{split}.txt").read_text().splitlines()]


def write(source: str, folder: pathlib.Path) -> None:
  """names.tsv and templates.tsv."""
  triples = [triple for split in ("train", "valid", "test") for triple in read(source, split)]
  entities = dict.fromkeys(end for head, _, tail in triples for end in (head, tail))
  (folder / "names.tsv").write_text("".join(f"{one}\t{name(one)}\n" for one in entities))
  lines = [f"{relation}\t{template}\n" for relation, (forwards, backwards) in TEMPLATES.items()
           for template in (f"{{head}} {forwards} {{tail}}", f"{{tail}} {backwards} {{head}}")]
  (folder / "templates.tsv").write_text("".join(lines))


def name(entity: str) -> str:
  """`land_reform.n.01` as `land reform`, and `cover.v.02` as `cover v2`."""
  if not (parts := re.fullmatch(r"(.+)\.([a-z])\.(\d+)", entity)):
    return entity
  sense = "" if (parts[2], int(parts[3])) == ("n", 1) else f" {parts[2]}{int(parts[3])}"
  return parts[1].replace("_", " ") + sense


def rule_mrr(source: str) -> float:
  """The MRR of an answer to each test question: what the relation leads to the other way round in training.

  Candidates that it names are better than the others, and alike; known answers are left out.
  """
  known, answers, entities = set[tuple[str, str, str]](), dict[tuple[str, str, bool], set[str]](), set[str]()
  for split in ("train", "valid", "test"):
    for head, relation, tail in read(source, split):
      entities |= {head, tail}
      answers.setdefault((head, relation, False), set()).add(tail)
      answers.setdefault((tail, relation, True), set()).add(head)
      if split == "train":
        known.add((head, relation, tail))
  leads = dict[tuple[str, str, bool], set[str]]()
  for head, relation, tail in known:
    leads.setdefault((tail, relation, False), set()).add(head)
    leads.setdefault((head, relation, True), set()).add(tail)
  total, triples = 0.0, read(source, "test")
  for head, relation, tail in triples:
    for question, answer in (((head, relation, False), tail), ((tail, relation, True), head)):
      others = answers[question] - {answer}
      named = leads.get(question, set()) - others
      left = len(entities) - len(others)
      total += 1 / ((1 + len(named)) / 2 if answer in named else len(named) + (1 + left - len(named)) / 2)
  return total / 2 / len(triples)


if __name__ == "__main__":
  runs.main(rows)
