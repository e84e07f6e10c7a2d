"""`gpt4x serve`: models behind an HTTP server with OpenAI's API."""

import argparse
import logging
import os
import pathlib
import sys

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.errors import CommandError, UserError


def run(arguments: argparse.Namespace) -> None:
  named = _named(arguments.model_dir)
  try:
    from gpt4x.serving import app, web
  except ImportError as error:
    raise UserError(f"gpt4x serve needs packages of its own ({error}): pip install 'gpt4x[serve]'") from error
  from gpt4x.serving import asked, guard, model
  if not web.is_loopback(arguments.host) and not arguments.api_key_file:
    raise CommandError(f"--host={arguments.host} can be reached from other machines, and everybody there could ask:"
                       " give --api_key_file, a file with a key on each line, or leave --host out")
  keys = _keys(arguments.api_key_file) if arguments.api_key_file else []
  hosts = ["localhost", "127.0.0.1", "[::1]", arguments.host.lower(), *map(str.lower, arguments.allowed_host)]
  logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
  models = {}
  with configuration.placing():
    for name, directory in named.items():
      experiment = reading.saved_experiment(directory, data=False)
      models[name] = model.load(
          name, directory, experiment, slots=arguments.slots, max_queue=arguments.max_queue, step=arguments.step,
          window=arguments.window, prefix_bytes=arguments.prefix_cache_mib << 20, speculate=arguments.speculate)
  limits = asked.Limits(choices=arguments.max_n, new_tokens=arguments.max_tokens)
  server = app.Server(models, limits, guard.Rules(keys=keys, hosts=frozenset(hosts), max_body=arguments.max_body))
  print(f"http://{arguments.host}:{arguments.port} serves {', '.join(models)}", flush=True)

  def stop() -> None:
    for one in models.values():
      one.stop()

  web.listen(server, arguments.host.strip("[]"), arguments.port, arguments.grace, arguments.max_connections, stop)


def _named(directories: list[str]) -> dict[str, str]:
  """The directory of each model by its name: NAME=DIR, or the last part of DIR."""
  found = dict[str, str]()
  for one in directories:
    name, equals, directory = one.partition("=")
    if not equals or "/" in name:
      name, directory = pathlib.PurePath(one).name, one
    if not name or len(name) > 100 or not name.isprintable():
      raise CommandError(f"--model_dir={one} gives the model no name: write NAME=DIR")
    if name in found:
      raise CommandError(f"two models are called {name!r}: write --model_dir=NAME=DIR for one of them")
    found[name] = os.path.expanduser(directory).rstrip("/") or "/"
  return found


def _keys(file: str) -> list[str]:
  """The keys of a file, one on each line."""
  try:
    lines = pathlib.Path(file).read_text("utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--api_key_file={file} cannot be read ({getattr(error, 'strerror', None) or error}): name a file"
                    " with a key on each line") from None
  keys = [line.strip() for line in lines if line.strip()]
  if not keys or any(len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key for key in keys):
    raise UserError(f"--api_key_file={file} must have a key of at least 16 letters, digits and signs on each line,"
                    " such as what `openssl rand -hex 32` prints")
  return keys
