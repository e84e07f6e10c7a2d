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
from gpt4x.launch import agreement, clusters, supervision

INTERRUPTED = 130  # 128 + SIGINT, as shells have it.
CLOSED_OUTPUT = 141  # 128 + SIGPIPE.
# What silences everything below errors, unless the user has set the first to see it.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}


def run(arguments: argparse.Namespace) -> tuple[int, str | None]:
  """Carries out a parsed command, as one of several processes if it is: (exit status, last line)."""
  quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
  if quiet:  # Ahead of JAX, which sets a level of its own.
    os.environ |= _QUIET
  processes = None
  if arguments.command in ("train", "eval"):
    try:
      processes = clusters.find(arguments.coordinator_address, arguments.num_processes, arguments.process_id,
                                arguments.start_timeout)
    except (UserError, KeyboardInterrupt) as error:
      return _failure(error)
  if not processes:
    return _outcome(arguments, quiet)
  continuing = arguments.model_dir if arguments.command == "train" else None
  return supervision.supervise(processes, functools.partial(_outcome, arguments, quiet, processes), continuing)


def _outcome(arguments: argparse.Namespace, quiet: bool, processes: clusters.Processes | None = None,
             note: Callable[[str], None] | None = None) -> tuple[int, str | None]:
  """Carries out a command, as one of several processes if so: its exit status, and what is to be said last."""
  try:
    # Imports make objects by the hundred thousand, few of them garbage: to look for it as often as is the default
    # would take a quarter of their time.
    gc.set_threshold(100_000)
    if quiet:
      _import_tensorflow_quietly()
    # Gin files import their user's own modules from here; last, so that no file in it hides an installed package.
    if os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())
    if processes:
      agreement.start(processes, note, arguments.start_timeout, arguments.heartbeat_timeout,
                      preemptible=arguments.command == "train")
    status = importlib.import_module(f"gpt4x.commands.{arguments.command}").run(arguments) or 0
    sys.stdout.flush()
    if processes:
      agreement.stop()
    return status, None
  except (Exception, KeyboardInterrupt) as error:  # pylint: disable=broad-exception-caught
    return _failure(error, processes)


def _failure(error: BaseException, processes: clusters.Processes | None = None) -> tuple[int, str | None]:
  """The exit status of the error that is being handled, and what is to be said last."""
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED, "interrupted"
  if isinstance(error, BrokenPipeError):  # Whoever read our output, `head` perhaps, has had enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED_OUTPUT, None
  prefix = f"{processes}: " if processes else ""
  if processes and (lost := supervision.lost_contact(error)):  # Even if what is raised is that a save failed.
    print(f"gpt4x: {prefix}{lost}", file=sys.__stderr__)
    return 1, None
  if isinstance(error, UserError):
    message = str(error)
  elif not (message := _storage_message(error)):
    import traceback
    # Not the user's doing, so whoever mends it needs more than a line.
    traceback.print_exc(file=sys.__stderr__ if processes else None)
    message = f"{type(error).__name__}: {error}"
  # A message that passed through gin has lines about the call appended.
  return 2 if isinstance(error, CommandError) else 1, f"error: {prefix}{message.splitlines()[0]}"


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


def _import_tensorflow_quietly() -> None:
  from absl import logging
  logging.set_verbosity(logging.ERROR)
  # TensorFlow greets from C++ before it reads its log level (github.com/tensorflow/tensorflow/issues/100442).
  stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    import tensorflow  # noqa: F401
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(null)
