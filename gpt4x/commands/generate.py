"""`gpt4x generate`: prints a prompt and its continuation as it is drawn, or many of them, one after the other.

Media come from files and go into files (`media_files.py`); printed text has a mark, such as <image>, for each.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import itertools
import json
import pathlib
import sys

from gpt4x import configuration
from gpt4x.commands import media_files, reading
from gpt4x.data.text_files import shown
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import media
from gpt4x.inference.generate import Generator
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.text import Completion
from gpt4x.media.medium import Medium


def run(arguments: argparse.Namespace) -> None:
  target = media_files.target(arguments.output) if arguments.output else None  # What is wrong with files comes first.
  texts = _read_prompts(arguments.prompt_file) if arguments.prompt_file else arguments.prompt or [""]
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  output = _output(arguments, target, experiment)
  given = media_files.read(arguments.media)
  if arguments.guidance != 1:
    _check_guidance(arguments.guidance, experiment.dataset.mixture_or_task_name)
  with configuration.placing():
    generator = Generator(arguments.model_dir, experiment, step=arguments.step, output=output,
                          sampling=Sampling(arguments.temperature, arguments.top_k, arguments.top_p),
                          guidance=arguments.guidance, suffix=arguments.suffix, marks=arguments.marks,
                          datastore=arguments.datastore)
  prompts = _prompts(generator, texts, arguments.media, given)
  retrieved: list[list[str]] = []
  if arguments.retrieve:
    prompts, retrieved = _with_documents(arguments, experiment, generator, prompts)
  behind = arguments.suffix or ""
  options = {"max_tokens": arguments.max_tokens, "seed": arguments.seed, "stop": arguments.stop}
  count = len(prompts) * arguments.num_samples
  if count == 1 and not arguments.json and not target:
    pieces = generator.stream(prompts[0], **options)
    first = next(pieces, "")  # Errors come before the prompt is repeated.
    for piece in itertools.chain((texts[0], first), pieces, (behind, "\n")):
      print(piece, end="", flush=True)
    return
  found = generator.complete(prompts, num_samples=arguments.num_samples, batch_size=arguments.batch_size, **options)
  empty = 0
  for number, one in enumerate(found):
    files = _write(target, number, count, one, generator) if target else []
    empty += bool(output and output.medium and not files)
    if arguments.json:
      log_probs = [round(log_prob, 6) for log_prob in one.log_probs]
      made = dataclasses.asdict(one) | {"log_probs": log_probs} | ({"files": files} if target else {})
      if retrieved:
        made["retrieved"] = retrieved[number // arguments.num_samples]
      print(json.dumps(made), flush=True)
      continue
    if not (output and output.medium):
      header = f"--- prompt {number // arguments.num_samples + 1}, sample {one.sample + 1}\n" if count > 1 else ""
      print(f"{header}{one.prompt}{one.text}{behind}", flush=True)
    for file in files:
      print(f"wrote {file}", flush=True)
  if empty:
    line = (f"nothing came for {empty} of {count} files: an empty medium, or one cut off as it began; give --seconds or"
            " --size, another --seed, or more --max_tokens")
    if empty == count:
      raise UserError(line)
    print(f"gpt4x: warning: {line}", file=sys.stderr)


def _output(arguments: argparse.Namespace, target: media_files.Target | None,
            experiment: Experiment) -> media.Output | None:
  """What the flags ask for."""
  if target is None:
    for flag in ("size", "seconds"):
      if getattr(arguments, flag):
        raise UserError(f"--{flag} is of an image, a sound or a video that is made: name its file with --output")
    return None
  known = media.known(experiment.vocabulary)
  medium = target.medium(known)
  if medium and medium not in known:
    raise UserError(f"--output={arguments.output}: the model knows no {medium}, only {', '.join(('text', *known))}:"
                    f" name a file of another kind, or choose a model that was trained with MediaTokens.{medium}")
  return media.Output(medium, arguments.size, arguments.seconds)


def _prompts(generator: Generator, texts: Sequence[str], files: Sequence[tuple[str, str]],
             given: Sequence[Medium]) -> list[str | media.Prompt]:
  """The prompts; what is wrong with the medium of a file, such as its rate, is told with the file's name."""
  try:
    return [generator.prompt(text, given) for text in texts]
  except UserError:
    for (_, path), medium in zip(files, given):
      try:
        generator.prompt("", [medium])
      except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from error
    raise


def _with_documents(arguments: argparse.Namespace, experiment: Experiment, generator: Generator,
                    prompts: Sequence[str | media.Prompt]) -> tuple[list[str | media.Prompt], list[list[str]]]:
  """The prompts with documents ahead of them, and the names of these."""
  from gpt4x.inference.retrieval import Retriever
  retriever = Retriever(arguments.retrieve, experiment, arguments.model_dir, arguments.step, arguments.documents)
  found, names = list[str | media.Prompt](), list[list[str]]()
  for prompt in prompts:
    text = prompt if isinstance(prompt, str) else prompt.text
    ids = generator.encode(prompt)
    ahead = retriever.ahead(text, generator.window - 1 - len(ids))
    for name in ahead.cut:
      print(f"gpt4x: warning: {shown(name)} is cut at its end: the model has {generator.window} positions in view, and"
            f" the prompt takes {len(ids)}", file=sys.stderr)
    found.append(media.Prompt(text, [*ahead.ids, *ids]) if ahead.ids else prompt)
    names.append([one.name for one in ahead.documents])
  return found, names


def _check_guidance(guidance: float, task: str) -> None:
  """Warns if nothing was trained without its condition, so that there is nothing to guide away from."""
  from gpt4x.media.local_media import LocalMedia
  local = task in ("local_text_to_media", "local_media_both_ways")
  dropped = LocalMedia().drop_condition if local else "text_to_" in task  # Of public sets.
  if not dropped:
    print(f"gpt4x: warning: --guidance={guidance:g} compares with what the model makes without a prompt, and training"
          f" on {task} dropped none: use 1, or a model of a task that drops some (LocalMedia.drop_condition)",
          file=sys.stderr)


def _write(target: media_files.Target, number: int, count: int, one: Completion, generator: Generator) -> list[str]:
  """Writes the media of one of `count` continuations; returns their files."""
  made = [part for part in generator.parts(one) if not isinstance(part, str)]
  files = target.files(number, count, [medium.medium for medium in made])
  for medium, file in zip(made, files):
    media_files.write(medium, file)
  if target.media and files and one.finish_reason == "length":
    print(f"gpt4x: warning: {files[0]} has only a part, for {len(one.tokens):,} tokens ended before the medium did:"
          " raise --max_tokens", file=sys.stderr)
  return files


def _read_prompts(name: str) -> Sequence[str]:
  """The prompts of a file, or of standard input (`-`): a JSON object with a "prompt" on each line."""
  where = "standard input" if name == "-" else name
  try:
    content = sys.stdin.buffer.read() if name == "-" else pathlib.Path(name).read_bytes()
    text = content.decode("utf-8-sig")
  except FileNotFoundError:
    raise UserError(f"no file {name}: correct --prompt_file") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{where} is not UTF-8 ({error}): convert it") from None
  except OSError as error:
    raise UserError(f"{where} cannot be read ({error.strerror}): correct --prompt_file") from None
  prompts = []
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    try:
      prompt = json.loads(line)["prompt"]
      prompt.encode()  # Refuses what is no text, and half of a character.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      raise UserError(f'{where}, line {number}: no object with a "prompt" that is text, such as {{"prompt": "Once"}}:'
                      " correct it") from None
    prompts.append(prompt)
  if not prompts:
    raise UserError(f'{where} has no prompts: write {{"prompt": "Once"}}, an object on each line')
  return prompts
