"""Documents ahead of questions: how many more a model answers that may look them up.

1,000 questions of bAbI's test set (task 1: where somebody is), each with the story before it. The actors of a story
have its number in their names, as in Mary417, so that a question says which story it is about. The model of
experiments/quickstart.gin, smaller, learns to answer from training stories with their questions, other actors and
places in each copy. Then it is asked the 1,000 questions alone, and with what `gpt4x index` finds for each among the
1,000 stories. It answers greedily, and the whole answer counts.

  retrieval_gain      points of accuracy with a document ahead over those without
  retrieval_accuracy  the accuracy itself in per cent, beside that without
  retrieval_found     of the questions, those whose own story was found first, in per cent

    python -m benchmarks.knowledge.retrieval --data=DIR [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator, Sequence
import json
import pathlib
import random
import re
from typing import Any, NamedTuple

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs

STEPS, COPIES, QUESTIONS = 800, 20, 1000
ACTORS = ("Mary", "John", "Sandra", "Daniel")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
MODEL: dict[str, Any] = {
    "MIXTURE_OR_TASK_NAME": "local_chat_spm", "DatasetConfig.feature_converter": "lm", "DatasetConfig.pack": True,
    "TASK_FEATURE_LENGTHS": {"targets": 192}, "BATCH_SIZE": 24, "TransformerConfig.vocab_size": 512,
    "TransformerConfig.memory_length": 0, "TransformerConfig.eval_memory_length": 0, "EVAL_PERIOD": None,
    "train.trackers": ()}


class Asked(NamedTuple):
  """A question, the story before it, and the answer."""

  story: str
  question: str
  answer: str


def rows(bench: runs.Bench) -> Iterator[Row]:
  draw = random.Random(0)
  read = lambda split: stories((pathlib.Path(bench.source, "babi", "en") / f"qa1_single-supporting-fact_{split}.txt"
                                ).read_text())
  # The numbers of training are those of the test's stories as well: of a number alone nothing follows.
  train = [renamed(one, draw.randrange(1, QUESTIONS + 1), draw) for _ in range(COPIES) for one in read("train")]
  test = [renamed(one, number, draw) for number, one in enumerate(read("test")[:QUESTIONS], 1)]
  write(bench.folder / "train.jsonl", ({"prompt": f"{one.story}\n{one.question}", "completion": f" {one.answer}"}
                                       for one in train))
  write(bench.folder / "held.jsonl", [{"prompt": test[0].question, "completion": f" {test[0].answer}"}])
  write(bench.folder / "stories.jsonl", ({"text": one.story} for one in test))
  write(bench.folder / "questions.jsonl", ({"prompt": one.question} for one in test))
  write(bench.folder / "texts.jsonl", ({"text": f"{one.story}\n{one.question} {one.answer}"} for one in train[:5000]))
  bench.gpt4x("vocabulary", "--task=local_text_bytes", "--size=360", "--output=local_text_spm", **{
      "LocalText.files": str(bench.folder / "texts.jsonl")})
  index = str(bench.folder / "index")
  bench.gpt4x("index", f"--output={index}", **{"LocalText.files": str(bench.folder / "stories.jsonl")})
  yield from summarized(bench.each_seed(lambda seed: measured(bench, index, test, seed)))


def measured(bench: runs.Bench, index: str, test: Sequence[Asked], seed: int) -> tuple[float, float, float]:
  """Per cent of right answers without documents and with, and of questions whose story was found."""
  run = bench.train(f"seed{seed}", "experiments/quickstart.gin", **MODEL, SEED=seed, TRAIN_STEPS=STEPS, **{
      "LocalChat.files": str(bench.folder / "train.jsonl"),
      "LocalChat.validation_files": str(bench.folder / "held.jsonl")})
  ask = ["generate", f"--model_dir={run}", f"--prompt_file={bench.folder / 'questions.jsonl'}", "--json",
         "--temperature=0", "--max_tokens=8", "--batch_size=50"]
  alone, helped = ([json.loads(line) for line in bench.gpt4x(*ask, *more).splitlines()]
                   for more in ([], [f"--retrieve={index}"]))
  place = bench.folder / "stories.jsonl"
  found = [one["retrieved"][:1] == [f"{place}:{number}"] for number, one in enumerate(helped, 1)]
  figures = share(right(alone, test)), share(right(helped, test)), share(found)
  print(f"seed {seed}: {figures[0]:.1f}% alone, {figures[1]:.1f}% with a document; {figures[2]:.1f}% found", flush=True)
  return figures


def right(answers: Sequence[dict[str, Any]], test: Sequence[Asked]) -> list[bool]:
  return [answer["text"].strip() == one.answer for answer, one in zip(answers, test, strict=True)]


def share(of: Sequence[bool]) -> float:
  return 100 * sum(of) / len(of)


def summarized(measured: Sequence[tuple[float, float, float]]) -> Iterator[Row]:
  """The rows of (accuracy without, accuracy with, found) of each seed."""
  alone, helped, found = zip(*measured)
  gain, error = quickstart.mean_and_error([with_one - without for without, with_one in zip(alone, helped)])
  yield Row("knowledge/retrieval_gain", gain, "points", error=error, goal="value >= 20")
  accuracy, error = quickstart.mean_and_error(helped)
  peer, _ = quickstart.mean_and_error(alone)
  yield Row("knowledge/retrieval_accuracy", accuracy, "%", peer, accuracy / peer if peer else None, error=error)
  yield Row("knowledge/retrieval_found", quickstart.mean_and_error(found)[0], "%")


def stories(text: str) -> list[Asked]:
  """Each question with what its story says before it."""
  found, said = list[Asked](), list[str]()
  for line in text.splitlines():
    number, _, rest = line.partition(" ")
    if number == "1":
      said = []
    question, *answer = rest.split("\t")
    if answer:
      found.append(Asked(" ".join(said), question.strip(), answer[0]))
    else:
      said.append(rest.strip())
  return found


def renamed(one: Asked, number: int, draw: random.Random) -> Asked:
  """The same with other actors, whose names have a number, and other places."""
  names = dict(zip(ACTORS, (f"{name}{number}" for name in draw.sample(ACTORS, len(ACTORS)))))
  names |= dict(zip(PLACES, draw.sample(PLACES, len(PLACES))))
  return Asked(*(re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text) for text in one))


def write(path: pathlib.Path, records: Any) -> None:
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
  runs.main(rows)
