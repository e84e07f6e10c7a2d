"""`gpt4x generate`: prints a prompt and its continuation as it is drawn, or many of them, one after the other."""

import argparse
from collections.abc import Sequence
import dataclasses
import itertools
import json
import pathlib
import sys

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.errors import UserError
from gpt4x.inference.generate import Generator
from gpt4x.inference.sampling import Sampling


def run(arguments: argparse.Namespace) -> None:
  prompts = arguments.prompt or _read_prompts(arguments.prompt_file)
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  with configuration.placing():
    generator = Generator(arguments.model_dir, experiment, step=arguments.step,
                          sampling=Sampling(arguments.temperature, arguments.top_k, arguments.top_p))
  options = {"max_tokens": arguments.max_tokens, "seed": arguments.seed, "stop": arguments.stop}
  many = len(prompts) * arguments.num_samples > 1
  if not many and not arguments.json:
    pieces = generator.stream(prompts[0], **options)
    first = next(pieces, "")  # Errors come before the prompt is repeated.
    for piece in itertools.chain((prompts[0], first), pieces, "\n"):
      print(piece, end="", flush=True)
    return
  found = generator.complete(prompts, num_samples=arguments.num_samples, batch_size=arguments.batch_size, **options)
  for number, one in enumerate(found):
    if arguments.json:
      log_probs = [round(log_prob, 6) for log_prob in one.log_probs]
      print(json.dumps(dataclasses.asdict(one) | {"log_probs": log_probs}), flush=True)
    else:
      prompt = number // arguments.num_samples + 1
      print(f"--- prompt {prompt}, sample {one.sample + 1}\n{one.prompt}{one.text}", flush=True)


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
