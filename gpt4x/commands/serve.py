"""`gpt4x serve`: models behind OpenAI's API, and a page to try them."""

import argparse
from collections.abc import Sequence
import importlib
import ipaddress
import math
import os
import re
import sys

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.errors import CommandError, UserError

_SHORTEST_KEY = 16


def run(arguments: argparse.Namespace) -> None:
  directories = named(arguments.model_dir)
  keys = read_keys(arguments.api_key_file) if arguments.api_key_file else ()
  if not (keys or is_loopback(arguments.host)):
    raise CommandError(f"--host={arguments.host} is open to other machines: give --api_key_file=FILE with a key on each"
                       " line, or leave --host out")
  try:
    importlib.import_module("starlette")
    importlib.import_module("uvicorn")
    importlib.import_module("prometheus_client")
  except ImportError as error:
    raise UserError(f"gpt4x serve needs {error.name or 'a package'}, which is not installed: pip install"
                    " 'gpt4x[serve]'") from error
  from gpt4x.inference.speculation import PromptLookup, Proposer
  from gpt4x.media.local_media import LocalMedia
  from gpt4x.partitioning import Partitioner
  from gpt4x.serving import app, server, settings
  from gpt4x.serving.model import drafting, load
  partitioner = Partitioner(data=arguments.mesh.get("data", 1), num_devices=math.prod(arguments.mesh.values()),
                            **{axis: size for axis, size in arguments.mesh.items() if axis != "data"})
  models = {}
  for name, model_dir in directories.items():
    with configuration.placing():
      propose: Proposer | None = PromptLookup() if arguments.speculate else None
      if arguments.draft_dir:
        draft = reading.saved_experiment(arguments.draft_dir, data=False)
        propose = drafting(arguments.draft_dir, draft, model_dir, partitioner)
      experiment = reading.saved_experiment(model_dir, data=False)
      models[name] = load(
          name, model_dir, experiment, slots=arguments.slots, max_queue=arguments.max_queue, step=arguments.step,
          prefix_bytes=arguments.prefix_cache_mib * 2**20, window=arguments.window, propose=propose,
          partitioner=partitioner, seconds=LocalMedia().seconds)
  limits = settings.Settings(
      keys=keys, hosts=settings.Settings.hosts | {_bare(arguments.host)} | set(map(_bare, arguments.allowed_host)),
      max_body=arguments.max_body, max_n=arguments.max_n, grace=arguments.grace)
  served = server.Server(app.build(models, limits), arguments.host, arguments.port)
  served.run_until_ended(lambda host, port: print(_listening(host, port, models), file=sys.stderr, flush=True))


def named(directories: Sequence[str]) -> dict[str, str]:
  """Model directories by the names that they are served by: NAME of NAME=DIR, or the last part of DIR."""
  found: dict[str, str] = {}
  for given in directories:
    name, equals, directory = given.partition("=")
    if not equals or "/" in name:  # A path may have an = in it, behind its first slash.
      directory = given
      name = given.rstrip("/").rpartition("/")[2] or "model"
      name = os.path.basename(os.path.abspath(given)) if name in (".", "..") else name
    if not re.fullmatch(r"[\w.-]{1,100}", name):
      raise CommandError(f"--model_dir={given}: {name!r} is no name for a model: write --model_dir=NAME={directory}")
    if name in found:
      raise CommandError(f"--model_dir: two models have the name {name}: write --model_dir=NAME=DIR for one of them")
    found[name] = directory
  return found


def read_keys(path: str) -> tuple[bytes, ...]:
  """The keys of a file, one on a line; empty lines and those that begin with # are none."""
  try:
    with open(path, "rb") as file:
      lines = [line.strip() for line in file.read().splitlines()]
  except OSError as error:
    raise UserError(f"--api_key_file={path}: {error.strerror}: check that path") from None
  keys = tuple(line for line in lines if line and not line.startswith(b"#"))
  if not keys:
    raise UserError(f"--api_key_file={path} has no key: write one on a line, such as what openssl rand -hex 32 prints")
  for number, key in enumerate(keys, 1):  # Not shown: it may be logged.
    if len(key) < _SHORTEST_KEY or not re.fullmatch(rb"[!-~]+", key):
      raise UserError(f"--api_key_file={path}: key {number} must have at least {_SHORTEST_KEY} characters, all of ASCII"
                      " and none of them spaces: take what openssl rand -hex 32 prints")
  return keys


def is_loopback(host: str) -> bool:
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:  # Another name.
    return False


def _bare(host: str) -> str:
  return host.lower().strip("[]").rstrip(".")


def _listening(host: str, port: int, models: Sequence[str] | dict) -> str:
  return f"serving {', '.join(models)} at http://{f'[{host}]' if ':' in host else host}:{port}"
