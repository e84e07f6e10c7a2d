"""Carrying out a command: its exit status, and the one line that is said last."""

import argparse
from collections.abc import Callable
import errno
import functools
import gc
import importlib
import os
import sys

from gpt4x.errors import CommandError, UserError
from gpt4x.launch import clusters, supervision

INTERRUPTED = 130  # 128 + SIGINT, as shells have it.
CLOSED_OUTPUT = 141  # 128 + SIGPIPE.


def run(arguments: argparse.Namespace) -> tuple[int, str | None]:
  """Carries out a parsed command, as one of several processes if it is: (exit status, last line)."""
  if arguments.command not in ("train", "eval"):
    return _outcome(arguments)
  try:
    processes = clusters.find(arguments.coordinator_address, arguments.num_processes, arguments.process_id)
  except UserError as error:
    return failure(error)
  if not processes:
    return _outcome(arguments)
  continuing = arguments.model_dir if arguments.command == "train" else None
  return supervision.supervise(processes, functools.partial(_outcome, arguments, processes), continuing)


def failure(error: UserError, prefix: str = "") -> tuple[int, str]:
  """The exit status and the line of a user's mistake."""
  return 2 if isinstance(error, CommandError) else 1, _error(error, prefix)


def _outcome(arguments: argparse.Namespace, processes: clusters.Processes | None = None,
             note: Callable[[str], None] | None = None) -> tuple[int, str | None]:
  """Carries out a command, as one of several processes if so: its exit status, and what is to be said last."""
  prefix = f"{processes}: " if processes else ""
  try:
    # Imports make objects by the hundred thousand, few of them garbage: to look for it as often as is the default
    # would take a quarter of their time.
    gc.set_threshold(100_000)
    _quiet_libraries()
    # Gin files import their user's own modules from here; last, so that no file in it hides an installed package.
    if os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())
    if processes:
      from gpt4x.launch import agreement
      agreement.start(processes, note, arguments.start_timeout, arguments.heartbeat_timeout,
                      preemptible=arguments.command == "train")
    status = importlib.import_module(f"gpt4x.commands.{arguments.command}").run(arguments) or 0
    sys.stdout.flush()
    if processes:
      agreement.stop()
    return status, None
  except KeyboardInterrupt:
    return INTERRUPTED, "interrupted"
  except BrokenPipeError:  # Whoever read our output, `head` perhaps, has had enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED_OUTPUT, None
  except Exception as error:  # pylint: disable=broad-exception-caught
    if processes and (lost := supervision.lost_contact(error)):  # Even if what is raised is that a save failed.
      print(f"gpt4x: {prefix}{lost}", file=sys.__stderr__)
      return 1, None
    if isinstance(error, UserError):
      return failure(error, prefix)
    if message := _storage_message(error):
      return 1, _error(message, prefix)
    import traceback
    # Not the user's doing, so whoever mends it needs more than a line.
    traceback.print_exc(file=sys.__stderr__ if processes else None)
    return 1, _error(f"{type(error).__name__}: {error}", prefix)


def _error(message: object, prefix: str = "") -> str:
  # A message that passed through gin has lines about the call appended.
  return f"error: {prefix}{str(message).splitlines()[0]}"


_STORAGE_ERRORS = {
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some space, then run the command again",
    errno.EROFS: "choose a directory that can be written",
    errno.EACCES: "change its permissions or choose another directory",
    errno.EPERM: "change its permissions or choose another directory",
    errno.ENOTDIR: "choose another directory",
}


def _storage_message(error: BaseException | None) -> str | None:
  """One line about a directory that cannot be used, if that is what the error, or one that led to it, is about."""
  while error is not None:
    for code, remedy in _STORAGE_ERRORS.items():
      # By the system's words, which TensorStore and TensorFlow keep in errors of their own, and gin in copies.
      if os.strerror(code) in str(error):
        return f"{str(error).splitlines()[0]}: {remedy}"
    error = error.__cause__ or error.__context__
  return None


def _quiet_libraries() -> None:
  """Silences what libraries print below errors, unless the user has set TF_CPP_MIN_LOG_LEVEL to see it."""
  if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
    return
  os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}
  from absl import logging
  logging.set_verbosity(logging.ERROR)
  # TensorFlow greets from C++ before it reads that level (github.com/tensorflow/tensorflow/issues/100442).
  stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    import tensorflow  # noqa: F401
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(null)
