"""Fill in the middle: what the text behind a span tells of it, and what it costs the next token.

Two models of experiments/quickstart.gin's size (1.4M parameters, Python's standard library, 550 steps) for each seed:
one of documents as they are, and one of which half of the parts, 256 characters each, are told with their middle last.
The spans are 10 to 60 characters of held-out parts.

  infill_gain          nats by which a span is likelier between what is before and behind it, by the second model, than
                       behind what is before it, by the first
  infill_gain/own      the same, over what the second model finds from what is before it alone
  fim_next_token_tax   per cent more bits a byte that the second model needs of held-out documents as they are

    python -m benchmarks.knowledge.infilling [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator
import random

import numpy as np

from benchmarks import continuations, harness, quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

CHARACTERS, SPANS = 256, 1000
SETTINGS = {"Marks.text": "stdlib_spm", "TransformerConfig.vocab_size": 4224, "EVAL_PERIOD": None,
            "infill.characters": CHARACTERS, "train.trackers": ()}


def rows(bench: runs.Bench) -> Iterator[Row]:
  bench.gpt4x("vocabulary", "--task=stdlib_bytes", "--size=4096", "--output=stdlib_spm")
  spans = harness.in_a_process(cut, str(bench.folder), SPANS)
  runs_of = bench.each([(seed, task) for seed in range(bench.seeds) for task in ("stdlib_marked", "stdlib_infill")],
                       lambda one: measured(bench, *one, spans))
  plain, infill = runs_of[::2], runs_of[1::2]
  for before, after in zip(plain, infill):
    print(f"a span: {before['left']:.2f} nats from the left, {after['between']:.2f} between, {after['left']:.2f} from"
          f" the left by the same model; {before['bits']:.4f} and {after['bits']:.4f} bits a byte", flush=True)
  gains = [before["left"] - after["between"] for before, after in zip(plain, infill)]
  own = [one["left"] - one["between"] for one in infill]
  tax = [100 * (after["bits"] / before["bits"] - 1) for before, after in zip(plain, infill)]
  for name, unit, values, goal in (("infill_gain", "nats/span", gains, "value > 0"),
                                   ("infill_gain/own", "nats/span", own, ""),
                                   ("fim_next_token_tax", "% worse", tax, "value <= 1")):
    value, error = quickstart.mean_and_error(values)
    yield Row(f"knowledge/{name}", value, unit, error=error, goal=goal)


def measured(bench: runs.Bench, seed: int, task: str, spans: list[list[str]]) -> dict[str, float]:
  """Nats a span from the left and, where the model can, between; bits a byte of documents as they are."""
  directory = bench.train(f"{task}{seed}", "experiments/quickstart.gin", MIXTURE_OR_TASK_NAME=task, SEED=seed,
                          **SETTINGS)
  bits = bench.evaluate(directory, MIXTURE_OR_TASK_NAME="stdlib_marked")["bits_per_byte"]
  pairs = bench.call(encoded, directory, spans, task == "stdlib_infill")
  nats = {name: -float(np.mean(bench.call(continuations.log_likelihoods, directory, some)))
          for name, some in pairs.items()}
  return {"bits": bits, **nats}


def encoded(directory: str, spans: list[list[str]], fills_in: bool) -> dict[str, list[tuple[list[int], list[int]]]]:
  """(prompt, span) as ids, by what is known of a span."""
  from gpt4x.data import infilling, vocabularies
  vocabulary = vocabularies.load(directory)
  encode = lambda text: list(vocabulary.encode(text))
  found = {"left": [(encode(before), encode(span)) for before, span, _ in spans]}
  if fills_in:
    found["between"] = [(infilling.prompt(vocabulary, before, behind), encode(span)) for before, span, behind in spans]
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
