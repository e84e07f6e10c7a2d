"""`gpt4x chat`: messages from the terminal or from standard input, a line each, and the model's answers."""

import argparse
from collections.abc import Iterator
import contextlib
import sys

from gpt4x import configuration
from gpt4x.commands import reading
from gpt4x.inference.conversation import Conversation
from gpt4x.inference.sampling import Sampling

_HELP = "/reset begins anew, /exit or the end of the input ends; Ctrl-C stops an answer, which is then not remembered"


def run(arguments: argparse.Namespace) -> None:
  experiment = reading.saved_experiment(arguments.model_dir, data=False)
  sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
  with configuration.placing():
    conversation = Conversation(
        arguments.model_dir, experiment, step=arguments.step, window=arguments.window,
        max_tokens=arguments.max_tokens, seed=arguments.seed, sampling=sampling)
  conversation.reset(arguments.system)
  if sys.stdin.isatty():
    print(_HELP, file=sys.stderr)
  for message in _messages():
    if message == "/reset":
      conversation.reset(arguments.system)
      continue
    with _stoppable():
      for piece in conversation.say(message):
        print(piece, end="", flush=True)
      print(flush=True)
      print(_cost(conversation), file=sys.stderr, flush=True)


def _messages() -> Iterator[str]:
  """What is typed, up to /exit; empty lines are none."""
  while True:
    try:
      line = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
      return
    if line == "/exit":
      return
    if line:
      yield line


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
  """On a terminal, Ctrl-C ends what is within, and the conversation goes on."""
  try:
    yield
  except KeyboardInterrupt:
    if not sys.stdin.isatty():
      raise
    print(flush=True)


def _cost(conversation: Conversation) -> str:
  """What the last answer took: a token costs the same, however long the conversation is."""
  turn = conversation.turns[-1]
  each = lambda seconds, tokens: f"{1000 * seconds / max(tokens, 1):.1f} ms"
  return (f"[turn {len(conversation.turns)}: {turn.history:,} tokens so far, the latest {conversation.window:,} in"
          f" view; {turn.read:,} read, {each(turn.read_seconds, turn.read)} each; {turn.written:,} written,"
          f" {each(turn.write_seconds, turn.written)} each]")
