"""Fill in the middle: what the text behind a span tells of it, and what it costs the next token.

Three models of experiments/quickstart.gin's size (1.4M parameters, Python's standard library, 550 steps of as many
tokens) for each seed: one of documents as they are, one of which half of the parts, 256 characters each, are told with
their middle last, and one of which half of the rows have UL2's denoisers beside documents as they are. The spans are 10
to 60 characters of held-out parts.

  infill_gain          nats by which a span is likelier between what is before and behind it, by the second model, than
                       behind what is before it, by the first
  infill_gain/own      the same, over what the second model finds from what is before it alone
  fim_next_token_tax   per cent more bits a byte that the second model needs of held-out documents as they are
  ul2_both             nats by which a span is likelier as a hidden one of denoiser R, by the third model, than behind
                       what is before it, by the first
  ul2_both/own         the same, over what the third model finds from what is before it alone
  ul2_both/tax         per cent more bits a byte that the third model needs of held-out documents as they are

    python -m benchmarks.knowledge.infilling [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator, Sequence
import random
from typing import Any

import numpy as np

from benchmarks import continuations, harness, quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

CHARACTERS, SPANS = 256, 1000
SETTINGS = {"Marks.text": "stdlib_spm", "TransformerConfig.vocab_size": 4224, "EVAL_PERIOD": None,
            "infill.characters": CHARACTERS, "train.trackers": ()}
TASKS = "stdlib_marked", "stdlib_infill", "ul2"
# Half of the rows go on with documents, half hide spans of pieces that have room for a part; as many tokens a step.
UL2 = {"DATASET": runs.Reference("@RowMixture()"), "hide_spans.denoisers": "ul2",
       "RowMixture.parts": runs.Reference("{'text': @text/DatasetConfig(), 'spans': @spans/DatasetConfig()}"),
       "text/DatasetConfig.mixture_or_task_name": "stdlib_marked",
       "text/DatasetConfig.task_feature_lengths": {"targets": 128}, "text/DatasetConfig.batch_size": 16,
       "spans/DatasetConfig.mixture_or_task_name": "stdlib_spans", "spans/DatasetConfig.batch_size": 16,
       "spans/DatasetConfig.task_feature_lengths": {"inputs": 84, "targets": 44},
       "spans/DatasetConfig.feature_converter": "prefix_lm"}


def rows(bench: runs.Bench) -> Iterator[Row]:
  bench.gpt4x("vocabulary", "--task=stdlib_bytes", "--size=4096", "--output=stdlib_spm")
  spans = harness.in_a_process(cut, str(bench.folder), SPANS)
  found = bench.each([(seed, task) for seed in range(bench.seeds) for task in TASKS],
                     lambda one: measured(bench, *one, spans))
  plain, *others = (found[first::len(TASKS)] for first in range(len(TASKS)))
  for name, after in zip(TASKS[1:], others):
    for before, one in zip(plain, after):
      print(f"{name}: a span: {before['left']:.2f} nats from the left, {one['between']:.2f} between, {one['left']:.2f}"
            f" from the left by the same model; {before['bits']:.4f} and {one['bits']:.4f} bits a byte", flush=True)
  yield from compared(plain, others[0], ("infill_gain", "infill_gain/own", "fim_next_token_tax"), "value <= 1")
  yield from compared(plain, others[1], ("ul2_both", "ul2_both/own", "ul2_both/tax"), "")


def compared(plain: Sequence[dict[str, float]], others: Sequence[dict[str, float]], names: Sequence[str],
             tax: str) -> Iterator[Row]:
  """The rows of models that fill in beside those that do not: what they gain, also over their own, and the tax."""
  gains = [before["left"] - after["between"] for before, after in zip(plain, others)]
  own = [one["left"] - one["between"] for one in others]
  taxes = [100 * (after["bits"] / before["bits"] - 1) for before, after in zip(plain, others)]
  for name, unit, values, goal in zip(names, ("nats/span", "nats/span", "% worse"), (gains, own, taxes),
                                      ("value > 0", "", tax)):
    value, error = quickstart.mean_and_error(values)
    yield Row(f"knowledge/{name}", value, unit, error=error, goal=goal)


def measured(bench: runs.Bench, seed: int, task: str, spans: list[list[str]]) -> dict[str, float]:
  """Nats a span from the left and, where the model can, between; bits a byte of documents as they are."""
  data: dict[str, Any] = UL2 if task == "ul2" else {"MIXTURE_OR_TASK_NAME": task}
  directory = bench.train(f"{task}{seed}", "experiments/quickstart.gin", SEED=seed, **SETTINGS | data)
  bits = bench.evaluate(directory, MIXTURE_OR_TASK_NAME="stdlib_marked", DATASET=runs.Reference("@DatasetConfig()"))
  found = {"bits": bits["bits_per_byte"]}
  for name, (pairs, said) in bench.call(encoded, directory, spans, task).items():
    found[name] = -float(np.mean(bench.call(continuations.log_likelihoods, directory, pairs, said)))
  return found


def encoded(directory: str, spans: list[list[str]], task: str) -> dict[str, tuple[list[Any], int | None]]:
  """Pairs of (prompt, span) as ids, by what is known of a span, and what `log_likelihoods` is to take as said."""
  from gpt4x.data import infilling, vocabularies
  vocabulary = vocabularies.load(directory)
  encode = lambda text: list(vocabulary.encode(text))
  hidden = [vocabulary.span_id(0)]
  told = {"stdlib_infill": lambda before, behind: infilling.prompt(vocabulary, before, behind),
          "ul2": lambda before, behind: [vocabulary.mark("[R]"), *encode(before), *hidden, *encode(behind), *hidden]}
  found: dict[str, Any] = {"left": ([(encode(before), encode(span)) for before, span, _ in spans], None)}
  if task in told:
    found["between"] = ([(told[task](before, behind), encode(span)) for before, span, behind in spans],
                        1 if task == "ul2" else None)
  return found


def cut(folder: str, count: int) -> list[list[str]]:
  """[before, span, behind] of held-out parts, of which none is cut in two."""
  quickstart.write_corpus(folder)
  text = b"\n".join(quickstart.read_corpus(folder, "validation")).decode()
  rng, found = random.Random(0), list[list[str]]()
  for start in rng.sample(range(0, len(text) - CHARACTERS, CHARACTERS), count):
    part, length = text[start:start + CHARACTERS], rng.randint(10, 60)
    first = rng.randint(40, CHARACTERS - 40 - length)
    found.append([part[:first], part[first:first + length], part[first + length:]])
  return found


if __name__ == "__main__":
  runs.main(rows, data=False)
