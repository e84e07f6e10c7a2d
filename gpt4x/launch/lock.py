"""One writer at a time in a model directory: a file that says who writes, kept fresh while its owner lives.

Not every shared file system carries flock from host to host, but all of them create a file exclusively. So that is the
lock, and its owner rewrites it every few seconds. If the owner is a process of this host, the system tells at once
whether it lives. Any other owner counts as dead once its lock has been watched for a while without a change, for which
no clocks are compared.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
from typing import Any
import uuid

from gpt4x import run_directory, storage
from gpt4x.errors import UserError
from gpt4x.launch import agreement

HEARTBEAT, SILENCE = 10.0, 90.0  # Seconds between rewritings, and without any after which an owner counts as dead.


@contextlib.contextmanager
def held(model_dir: str) -> Iterator["Lock"]:
  """Holds the lock of a model directory, which process 0 of several takes; raises UserError if another run has it."""
  lock = Lock(model_dir)
  try:
    refusal = agreement.exchange(lock.acquire() if agreement.is_first() else "")[0]
    if refusal:
      raise UserError(refusal)
    yield lock
  finally:
    lock.release()


class Lock:
  """The lock of a model directory, as one process sees it."""

  def __init__(self, model_dir: str):
    self._directory = storage.path(model_dir)
    self._path = self._directory / run_directory.LOCK
    self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "place": _place(),
                   "started": _started(os.getpid()), "since": time.time(), "token": uuid.uuid4().hex}
    self._written: str | None = None  # What the file holds while this process owns it.
    self._lost = self._made_directory = False
    self._released = threading.Event()
    self._thread = threading.Thread(target=self._keep_fresh, name="lock", daemon=True)

  def acquire(self) -> str:
    """Takes the lock and keeps it fresh; returns "", or a line about the run that has it."""
    try:
      self._made_directory = not storage.is_remote(self._directory) and not self._directory.exists()
      storage.make_directory(self._directory)
      while not self._create():
        if refusal := self._wait():
          return refusal
    except UserError as error:  # Of a bucket.
      return str(error)
    except OSError as error:
      return (f"model directory {self._directory} cannot be written ({(error.strerror or str(error)).lower()}): free or"
              " unlock it, or name another")
    self._thread.start()
    return ""

  def check(self) -> None:
    """Raises UserError if this process was so silent that another has taken the lock from it."""
    if self._lost:
      raise UserError(f"{self._directory} was taken over by another run while this process stood still: nothing more is"
                      " written; start again when that run has ended")

  def release(self) -> None:
    self._released.set()
    if self._written is not None:
      if self._thread.is_alive():
        self._thread.join()  # Or it might write the lock anew.
      with contextlib.suppress(OSError, UserError), storage.errors(self._path):
        if _parse(self._read() or "").get("token") == self._owner["token"]:
          self._path.unlink()
        self._written = None
    if self._made_directory:  # A run that was refused leaves nothing, not even the directory.
      with contextlib.suppress(OSError):
        self._directory.rmdir()

  def _create(self) -> bool:
    content = json.dumps(self._owner)
    if not storage.create_exclusively(self._path, content.encode()):
      return False
    self._written = content
    return True

  def _keep_fresh(self) -> None:
    while not self._released.wait(HEARTBEAT):
      self._beat()

  def _beat(self) -> None:
    """Rewrites the lock, unless it has become another's."""
    with contextlib.suppress(OSError, UserError):  # The storage does not answer; it may next time.
      if (found := self._read()) is None:  # Somebody has removed it.
        self._create()
      elif _parse(found).get("token") != self._owner["token"]:
        self._lost = True
      else:  # Ours, if not as it was last written: a bucket may have taken what it did not confirm.
        content = json.dumps({**self._owner, "beat": time.time()})
        if storage.replace(self._path, found.encode(), content.encode()):
          self._written = content

  def _wait(self) -> str:
    """A line about the run that has the lock; "" as soon as it is free, which it is made if its owner is dead."""
    content = self._read()
    if content is None:
      return ""
    owner = _parse(content)
    if owner.get("place") == self._owner["place"]:
      if _started(owner["pid"]) == owner["started"]:
        return self._refusal(owner)
    else:
      print(f"gpt4x: waiting up to {SILENCE:.0f} s to see whether {_name(owner)}, which has {self._path}, still lives",
            file=sys.stderr)
      waited = 0.0
      while waited < SILENCE:
        time.sleep(HEARTBEAT / 5)
        waited += HEARTBEAT / 5
        if (now := self._read()) != content:
          return "" if now is None else self._refusal(_parse(now))
    self._remove(content)
    return ""

  def _remove(self, content: str) -> None:
    """Removes a dead owner's lock; one that yet another has put there meanwhile goes back.

    In a bucket it becomes ours in one step, unless another was faster.
    """
    if storage.is_remote(self._path):
      storage.replace(self._path, content.encode(), json.dumps(self._owner).encode())
      return
    aside = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
      self._path.rename(aside)
      if aside.read_text() != content:
        aside.rename(self._path)
      else:
        aside.unlink()

  def _read(self) -> str | None:
    content = storage.read(self._path)
    return None if content is None else content.decode(errors="replace")

  def _refusal(self, owner: dict[str, Any]) -> str:
    age = f" for {_age(time.time() - owner['since'])}" if owner else ""
    return (f"{self._directory} is in use: {_name(owner)} has been writing there{age}: stop that run first (SIGTERM"
            " saves it), or name another --model_dir")


def _parse(content: str) -> dict[str, Any]:
  """The owner; empty while it is about to write its name."""
  try:
    owner = json.loads(content)
    return owner if {"host", "pid", "place", "started", "since"} <= set(owner) else {}
  except (ValueError, TypeError, RecursionError):
    return {}


def _name(owner: dict[str, Any]) -> str:
  return f"process {owner['pid']} on host {owner['host']}" if owner else "another process"


def _age(seconds: float) -> str:
  minutes, hours = seconds / 60, seconds / 3600
  return f"{max(seconds, 0):.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _place() -> str | None:
  """Where a process number means a process: this boot of this machine, and the namespace of a container."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:  # Not Linux, and then no container either.
    return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(pid: int) -> str | None:
  """When a living process started, so that its number is not taken for another's; None if it is dead."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:  # Another user's.
    pass
  try:
    state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return "unknown"
  return None if state in "ZX" else fields[18]
