"""Facts in a model of text: what training on triples beside text gains on held-out ones, and what it costs the text.

Models of experiments/quickstart.gin's size (1.4M parameters) for each seed, on as many tokens: WikiText-2 alone, and
WikiText-2 with WN18RR's triples as sentences in an eighth of the rows. Then adapters of rank 16 beside the first, on
the triples alone, which leave it as it is. The probe asks for both ends of 200 held-out triples, among 50 other answers
of the relation.

  cloze_gain          points of accuracy that the mixed model has over that of text alone
  cloze_gain/adapter  the same of the adapters
  text_tax            per cent more bits a byte of held-out text that the mixed model needs

    python -m benchmarks.knowledge.facts --data=DIR [--seeds=3] [--folder=DIR] [--dry_run]
"""

from collections.abc import Iterator
import gzip
import json
import pathlib
from typing import Any

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

STEPS, ADAPTER_STEPS, ROWS, LENGTH = 800, 300, 64, 64
PROBED, OTHERS = 200, 50


def rows(bench: runs.Bench) -> Iterator[Row]:
  write(pathlib.Path(bench.source), bench.folder)
  bench.gpt4x("vocabulary", "--task=local_text_bytes", "--size=4096", "--output=local_text_spm",
              **{"LocalText.files": str(bench.folder / "pieces.jsonl")})
  found = bench.each_seed(lambda seed: measured(bench, seed), "measured")
  for one in found:
    print(", ".join(f"{name} {value:.4f}" for name, value in one.items()), flush=True)
  gain, adapter = ([100 * (one[f"{name}_cloze"] - one["text_cloze"]) for one in found] for name in ("mixed", "adapter"))
  tax = [100 * (one["mixed_bits"] / one["text_bits"] - 1) for one in found]
  for name, unit, values, goal in (("cloze_gain", "points", gain, "value > 0"),
                                   ("cloze_gain/adapter", "points", adapter, "value > 0"),
                                   ("text_tax", "% worse", tax, "value <= 1")):
    value, error = quickstart.mean_and_error(values)
    yield Row(f"knowledge/{name}", value, unit, error=error, goal=goal)


def measured(bench: runs.Bench, seed: int) -> dict[str, float]:
  """The accuracy of the probe and the bits a byte of each model, by name."""
  files = {"LocalText.files": str(bench.folder / "text.jsonl"),
           "LocalText.validation_files": str(bench.folder / "held_out.jsonl"),
           "LocalGraph.files": str(bench.folder / "train.tsv"),
           "LocalGraph.validation_files": str(bench.folder / "valid.tsv")}
  shared: dict[str, Any] = {"SEED": seed, "EVAL_PERIOD": None, "train.trackers": (), **files}
  text = bench.train(f"text{seed}", "experiments/quickstart.gin", **shared, MIXTURE_OR_TASK_NAME="local_text_spm",
                     TRAIN_STEPS=STEPS)
  mixed = bench.train(f"mixed{seed}", "experiments/quickstart.gin", **shared, TRAIN_STEPS=STEPS, **parts())
  adapter = bench.train(f"adapter{seed}", "experiments/quickstart.gin", **shared, **{
      "MIXTURE_OR_TASK_NAME": "local_triples_spm", "TRAIN_STEPS": ADAPTER_STEPS, "LowRank.base": text,
      "LanguageModel.form": runs.Reference("@LowRank()"), "LowRank.rank": 16})
  bits = {"text_bits": bench.evaluate(text)["bits_per_byte"], "mixed_bits": bench.evaluate(mixed)["bits_per_byte_text"]}
  return bits | {f"{name}_cloze": bench.call(probe, directory, files, seed) for name, directory in (
      ("text", text), ("mixed", mixed), ("adapter", adapter))}


def parts() -> dict[str, Any]:
  """Bindings of a mixture of rows, of which an eighth has triples."""
  found: dict[str, Any] = {"DATASET": runs.Reference("@RowMixture()"), "RowMixture.parts": {
      name: runs.Reference(f"@{name}/DatasetConfig()") for name in ("text", "triples")}}
  for name, task, count in (("text", "local_text_spm", ROWS * 7 // 8), ("triples", "local_triples_spm", ROWS // 8)):
    found |= {f"{name}/DatasetConfig.{field}": value for field, value in (
        ("mixture_or_task_name", task), ("task_feature_lengths", {"targets": LENGTH}), ("batch_size", count))}
  return found


def probe(directory: str, files: dict[str, str], seed: int) -> float:
  """The share of held-out questions whose answer is likelier than all others."""
  from gpt4x.commands import reading
  from gpt4x.data import vocabularies
  from gpt4x.data.local_graph import LocalGraph
  from gpt4x.evaluation import cloze, link_prediction
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(directory, data=False)
  graph = LocalGraph(files["LocalGraph.files"], files["LocalGraph.validation_files"]).read()
  predictor = link_prediction.LinkPredictor(experiment, vocabularies.load(directory), graph)
  _, params = experiment.restore_params(directory, Partitioner(data=1, num_devices=1))
  questions = link_prediction.sampled(graph, "validation", PROBED, seed=0)
  return cloze.cloze(predictor, params, graph, questions, OTHERS, seed=0)["accuracy"]


def write(source: pathlib.Path, folder: pathlib.Path) -> None:
  """text.jsonl and held_out.jsonl, paragraphs; train.tsv and valid.tsv; pieces.jsonl, what the vocabulary is made of.

  Senses have their number behind the word, as in "reform 1".
  """
  def called(entity: str) -> str:
    word, _, number = entity.rsplit(".", 2)
    return f"{word.replace('_', ' ')} {int(number)}"

  names = list[str]()
  for split in ("train", "valid"):
    triples = [line.split("\t") for line in (source / "wn18rr" / f"{split}.txt").read_text().splitlines()]
    lines = ["\t".join((called(head), relation, called(tail))) for head, relation, tail in triples]
    (folder / f"{split}.tsv").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    names += [called(end) for head, _, tail in triples for end in (head, tail)]
  texts = {"text": gzip.decompress((source / "wikitext-2" / "train.txt.gz").read_bytes()).decode(),
           "held_out": (source / "wikitext-2" / "valid.txt").read_text()}
  for name, text in texts.items():
    paragraphs = [line.strip() for line in text.splitlines() if len(line) > 200]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in paragraphs))
  distinct = "\n".join(dict.fromkeys(names))
  (folder / "pieces.jsonl").write_text((folder / "text.jsonl").read_text() + json.dumps({"text": distinct}) + "\n")


if __name__ == "__main__":
  runs.main(rows)
