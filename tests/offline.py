"""Sockets of the tests' own process reach this machine alone: a test that would need another one fails."""

from collections.abc import Iterator
import ipaddress
import socket
from typing import Any

import pytest


class Refused(RuntimeError):
  """Another machine was asked for. No OSError: what tries again, or does without, would hide it."""


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
  """Connecting anywhere but to loopback or a Unix socket raises, and so does looking up the name of another machine."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ("connect", "connect_ex"):
      patch.setattr(socket.socket, name, _to_here(getattr(socket.socket, name)))
    patch.setattr(socket, "getaddrinfo", _names_of_here(socket.getaddrinfo))
    yield


def _to_here(connect: Any) -> Any:
  def connect_here(self: socket.socket, address: Any) -> Any:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0], numbers=False):
      raise Refused(f"a test connects to {address}")
    return connect(self, address)

  return connect_here


def _names_of_here(look_up: Any) -> Any:
  def look_up_here(host: Any, *arguments: Any, **more: Any) -> Any:
    if not _is_here(host, numbers=True):
      raise Refused(f"a test looks up {host}")
    return look_up(host, *arguments, **more)

  return look_up_here


def _is_here(host: str | bytes | None, numbers: bool) -> bool:
  """Whether a host is this machine by its loopback, or is written in `numbers`, which nobody is asked about."""
  name = host.decode() if isinstance(host, bytes) else host or "localhost"
  try:
    address = ipaddress.ip_address(name.partition("%")[0])
  except ValueError:
    return name == "localhost" or numbers and name == socket.gethostname()
  return numbers or address.is_loopback or address.is_unspecified
