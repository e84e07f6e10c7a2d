"""Three fields: what fine-tuning gains in medicine, education and content, in points of held-out accuracy.

The base is experiments/quickstart.gin (1.4M parameters, Python's standard library), which knows none.

  field_medicine   PubMedQA's questions, with the end of their abstracts: yes, no or maybe, whichever is likeliest; a
                   seed has its own 250 held-out questions of 1,000. The peer always says yes.
  field_education  bAbI's first task, with an explanation: "hallway, for Daniel went back to the hallway."; of 200
                   questions of its test set, answered greedily, the place counts. The peer names the place said last.
  field_education/explained  the share of right answers that name the right sentence, in per cent.
  field_content    captions of Fashion-MNIST's pictures, 14 x 14 pixels with an id each, which the base learns besides
                   its own; of 1,000 test pictures, captioned greedily. The peer is kernel ridge regression on 28 x 28.

    python -m benchmarks.posttraining.fields --data=DIR [--seeds=3] [--dry_run]
"""

from collections.abc import Iterator, Sequence
import json
import pathlib
import random
from typing import Any, NamedTuple

import numpy as np

from benchmarks import continuations, quickstart
from benchmarks.harness import Row
from benchmarks.media import data, runs
from benchmarks.media.fashion_decoder import KERNEL_RIDGE

CHOICES = "yes", "no", "maybe"
CHARACTERS, HELD_OUT, STORIES, PICTURES = 700, 250, 200, 1000
STEPS = {"medicine": 100, "education": 250, "content": 300}


class Question(NamedTuple):
  """What is asked, and the answer."""

  prompt: str
  answer: str


def rows(bench: runs.Bench) -> Iterator[Row]:
  for name in ("stdlib_spm", "local_text_spm"):  # The same pieces, by the name that each task has for them.
    bench.gpt4x("vocabulary", "--task=stdlib_bytes", "--size=4096", f"--output={name}")
  base = bench.train("base", "experiments/quickstart.gin", EVAL_PERIOD=None)
  questions = medicine(pathlib.Path(bench.source, "tasks", "pubmed_qa_labeled.jsonl"))
  found = bench.each_seed(lambda seed: of_medicine(bench, base, questions, seed))
  value, error = quickstart.mean_and_error([after - before for before, after, _ in found])
  _, after, peer = (float(np.mean(one)) for one in zip(*found))
  print(f"medicine: {after - value:.1f} to {after:.1f}%; always yes: {peer:.1f}%", flush=True)
  yield Row("posttraining/field_medicine", value, "points", peer, after / peer, error=error, goal="value > 0")
  stories = [babi(pathlib.Path(bench.source, "babi", "en", f"qa1_single-supporting-fact_{split}.txt"))
             for split in ("train", "test")]
  known = bench.each_seed(lambda seed: of_education(bench, base, *stories, seed))
  value, error = quickstart.mean_and_error([after - before for before, after, *_ in known])
  after, peer = (float(np.mean([one[i] for one in known])) for i in (1, 3))
  print(f"education: {after - value:.1f} to {after:.1f}%; the last place: {peer:.1f}%", flush=True)
  yield Row("posttraining/field_education", value, "points", peer, after / peer, error=error, goal="value > 0")
  value, error = quickstart.mean_and_error([one[2] for one in known])
  yield Row("posttraining/field_education/explained", value, "%", error=error)
  data.write_fashion(bench.source, bench.folder)
  test = bench.folder / "test.jsonl"
  test.write_text("".join(test.read_text().splitlines(True)[:PICTURES]))
  before, *captions = bench.each([(1, 0), *((STEPS["content"], seed) for seed in range(bench.seeds))],
                                 lambda one: of_content(bench, base, *one))
  value, error = quickstart.mean_and_error([after - before for after in captions])
  after = float(np.mean(captions))
  print(f"content: {after - value:.1f} to {after:.1f}%; kernel ridge regression: {KERNEL_RIDGE}%", flush=True)
  yield Row("posttraining/field_content", value, "points", KERNEL_RIDGE, after / KERNEL_RIDGE, error=error,
            goal="value > 0")


def tuned(bench: runs.Bench, name: str, base: str, questions: Sequence[Question], steps: int, seed: int) -> str:
  """The directory of a model that has seen the questions with their answers."""
  write(bench.folder / f"{name}.jsonl", [{"prompt": one.prompt, "completion": one.answer} for one in questions])
  return bench.train(name, "experiments/quickstart.gin", **{
      "MIXTURE_OR_TASK_NAME": "local_chat_spm", "LocalChat.files": str(bench.folder / f"{name}.jsonl"),
      "DatasetConfig.feature_converter": "lm", "DatasetConfig.pack": True, "TASK_FEATURE_LENGTHS": {"targets": 384},
      "BATCH_SIZE": 8, "train.init_from": base, "TRAIN_STEPS": steps, "warmup_linear.peak": 0.005,
      "warmup_linear.warmup_steps": 10, "EVAL_PERIOD": None, "SEED": seed, "train.trackers": ()})


def of_medicine(bench: runs.Bench, base: str, questions: Sequence[Question], seed: int) -> tuple[float, float, float]:
  """The accuracy of the base, of the tuned model, and of 'yes', in per cent."""
  questions = list(questions)
  random.Random(seed).shuffle(questions)
  held_out = questions[:HELD_OUT]
  directory = tuned(bench, f"medicine{seed}", base, questions[HELD_OUT:], STEPS["medicine"], seed)
  of = lambda model: 100 * float(np.mean([one.answer == CHOICES[best] for one, best in zip(
      held_out, likeliest(bench, model, [one.prompt for one in held_out]))]))
  return of(base), of(directory), 100 * float(np.mean([one.answer == CHOICES[0] for one in held_out]))


def of_education(bench: runs.Bench, base: str, stories: Sequence[Question], test: Sequence[Question],
                 seed: int) -> tuple[float, float, float, float]:
  """The accuracy of the base and of the tuned model, the share of right reasons, and the last place's accuracy."""
  held_out = random.Random(seed).sample(list(test), STORIES)
  directory = tuned(bench, f"education{seed}", base, stories, STEPS["education"], seed)
  place = lambda text: text.split(",")[0].strip()
  before, after = (written(bench, model, held_out, seed) for model in (base, directory))
  right = [place(text) == place(one.answer) for text, one in zip(after, held_out)]
  reasons = [text.strip() == one.answer.strip() for text, one, ok in zip(after, held_out, right) if ok]
  share = lambda values: 100 * float(np.mean(values)) if len(values) else 0.0
  lasts = [one.prompt.split("\n")[-3].rstrip(".").split()[-1] == place(one.answer) for one in held_out]
  return (share([place(text) == place(one.answer) for text, one in zip(before, held_out)]), share(right),
          share(reasons), share(lasts))


def of_content(bench: runs.Bench, base: str, steps: int, seed: int) -> float:
  """The accuracy of captions after so many steps, in per cent."""
  directory = bench.train(f"content{seed}_{steps}", "experiments/quickstart.gin", **bench.files(), **{
      "MIXTURE_OR_TASK_NAME": "local_media_to_text", "DatasetConfig.feature_converter": "prefix_lm",
      "MediaTokens.text": base, "MediaTokens.image": "grey", "MediaTokens.image_size": (14, 14),
      "TransformerConfig.vocab_size": 4480, "TASK_FEATURE_LENGTHS": {"inputs": 220, "targets": 8}, "BATCH_SIZE": 16,
      "train.init_from": base, "TRAIN_STEPS": steps, "warmup_linear.peak": 0.01 if steps > 1 else 1e-9,
      "warmup_linear.warmup_steps": min(steps - 1, 20), "EVAL_PERIOD": None, "SEED": seed, "train.trackers": ()})
  return 100 * bench.evaluate(directory)["local_media_to_text/accuracy"]


def written(bench: runs.Bench, directory: str, questions: Sequence[Question], seed: int) -> list[str]:
  """What a model answers, greedily."""
  prompts = bench.folder / f"prompts{seed}.jsonl"
  write(prompts, [{"prompt": one.prompt} for one in questions])
  printed = bench.gpt4x("generate", f"--model_dir={directory}", f"--prompt_file={prompts}", "--json",
                        "--temperature=0", "--max_tokens=32", "--batch_size=50")
  return [json.loads(line)["text"] for line in printed.splitlines()]


def likeliest(bench: runs.Bench, directory: str, prompts: Sequence[str]) -> list[int]:
  """Which of CHOICES each prompt is likeliest to go on with."""
  texts = bench.call(encoded, directory, [*CHOICES, *prompts])
  answers, ids = texts[:len(CHOICES)], texts[len(CHOICES):]
  scores = bench.call(continuations.log_likelihoods, directory, [(prompt, one) for prompt in ids for one in answers])
  return np.argmax(np.reshape(scores, (-1, len(CHOICES))), -1).tolist()


def encoded(directory: str, texts: Sequence[str]) -> list[list[int]]:
  """Their ids in a run's vocabulary."""
  from gpt4x.data import vocabularies
  vocabulary = vocabularies.load(directory)
  return [list(vocabulary.encode(text)) for text in texts]


def medicine(path: pathlib.Path) -> list[Question]:
  """Questions behind the end of what is known, and one of CHOICES."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return [Question(one["context"][-CHARACTERS:], one["continuation"]) for one in lines]


def babi(path: pathlib.Path) -> list[Question]:
  """A story with its question, and the answer with the sentence that tells it."""
  found, story = list[Question](), dict[str, str]()
  for line in path.read_text().splitlines():
    number, _, text = line.partition(" ")
    if number == "1":
      story = {}
    if "\t" not in text:
      story[number] = text.strip()
      continue
    question, answer, fact = text.split("\t")
    prompt = "\n".join([*story.values(), question.strip()])
    found.append(Question(f"{prompt}\n", f"{answer}, for {story[fact.strip()]}"))
  return found


def write(path: pathlib.Path, lines: Sequence[Any]) -> None:
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
  runs.main(rows)
