"""Carrying out a command: its exit status, and its last line."""

import argparse
from collections.abc import Callable
import errno
import functools
import gc
import importlib
import os
import re
import sys
import traceback

from gpt4x.errors import CommandError, printable, UserError
from gpt4x.launch import agreement, clusters, supervision


def run(arguments: argparse.Namespace) -> tuple[int, str | None]:
  """Carries out a parsed command, if need be as one of several processes: (exit status, last line)."""
  quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
  if quiet:  # Libraries say errors only. Set before JAX is imported, which sets a level of its own.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}
  processes = None
  try:
    if arguments.command in ("train", "eval"):
      processes = clusters.find(arguments.coordinator_address, arguments.num_processes, arguments.process_id,
                                arguments.start_timeout)
  except (UserError, KeyboardInterrupt) as error:
    return _failure(error)
  work = functools.partial(_outcome, arguments, quiet, processes)
  if not processes:
    return work()
  return supervision.supervise(processes, work, arguments.model_dir if arguments.command == "train" else None)


def _outcome(arguments: argparse.Namespace, quiet: bool, processes: clusters.Processes | None,
             note: Callable[[str], None] = lambda _: None) -> tuple[int, str | None]:
  """Carries out a command in this process: (exit status, last line)."""
  try:
    gc.set_threshold(100_000)  # Imports make much and drop little: the default threshold takes a quarter of their time.
    if quiet and arguments.command not in ("cache", "prepare", "quality"):  # Which need no TensorFlow.
      from absl import logging

      from gpt4x.data import tensorflow_quietly  # noqa: F401
      logging.set_verbosity(logging.ERROR)
    # Gin files import their user's own modules from here. Last, so that no file in it hides an installed package.
    if os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())
    if getattr(arguments, "trust", ()):
      from gpt4x.configuration import trust
      trust.allow(arguments.trust)
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
  """(exit status, last line) for the error that is being handled."""
  try:
    sys.stdout.flush()
  except OSError:  # Or Python would try again at its end, and fail with a status of its own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  if isinstance(error, KeyboardInterrupt):
    return 130, "interrupted"  # 128 + SIGINT, as shells have it.
  if isinstance(error, BrokenPipeError):  # The reader of our output, `head` perhaps, has had enough.
    return 141, None  # 128 + SIGPIPE.
  prefix = f"{processes}: " if processes else ""
  if processes and (lost := supervision.lost_contact(error)):  # Even if the error itself is that a save failed.
    print(f"gpt4x: {prefix}{lost}", file=sys.__stderr__)
    return 1, None
  message = str(error) if isinstance(error, UserError) else _storage_message(error)
  if message is None:  # A defect: whoever mends it needs the traceback.
    traceback.print_exc(file=sys.__stderr__ if processes else None)
    message = f"{type(error).__name__}: {error}"
  # Gin appends lines about its call to a message.
  return 2 if isinstance(error, CommandError) else 1, f"error: {prefix}{printable((message.splitlines() or [''])[0])}"


_REMEDIES = {
    "free some space, then run the command again": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "choose a directory that can be written": (errno.EROFS,),
    "change its permissions or choose another directory": (errno.EACCES, errno.EPERM),
    "choose another path": (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY,
                            errno.ETXTBSY),
    "check that the storage answers, then run the command again": (errno.EIO, errno.ESTALE, errno.ENXIO),
    "allow more of them (ulimit -n)": (errno.EMFILE, errno.ENFILE),
}


def _storage_message(error: BaseException | None) -> str | None:
  """One line, with the remedy, if the error or one that led to it is the storage's."""
  first = error
  while error is not None:
    for remedy, codes in _REMEDIES.items():
      # Compares the system's words: TensorStore and TensorFlow keep them in errors of their own, gin in copies.
      if any(os.strerror(code) in str(error) for code in codes):
        return f"{str(error).splitlines()[0]}: {remedy}"
    error = error.__cause__ or error.__context__
  # What led to another error may long be mended; the error itself names its path.
  if isinstance(first, OSError) and re.match(r"\[Errno \d+\] .*: '", str(first)):
    return f"{str(first).splitlines()[0]}: check that path"
  return None
