"""What a gzip file of several members holds, where one of them may be damaged."""

from collections.abc import Callable
import io
from typing import Any, BinaryIO
import zlib

MAGIC = b"\x1f\x8b\x08"
_CHUNK = 1 << 16
_KEPT = 1 << 24  # Bytes of a member in which, once it turns out to be damaged, the next one is searched.


class GzipMembers(io.RawIOBase):
  """The content of all members one after another; what cannot be unpacked is left out.

  `damaged` is called with what is wrong, once for each place; reading goes on at the next member.
  """

  def __init__(self, file: BinaryIO, damaged: Callable[[str], None]):
    self._file, self._damaged = file, damaged
    self._searching = False  # Whether the last member was damaged, and nothing has been read since.
    self._begin(b"")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while True:
      if self._stream.eof:
        self._begin(self._stream.unused_data)
      packed = self._stream.unconsumed_tail or self._fresh()
      try:
        found = self._stream.decompress(packed, len(buffer))
      except zlib.error as error:
        self._go_on_behind(str(error).rpartition(": ")[2], packed)
        continue
      if found:
        self._searching = False
        buffer[:len(found)] = found
        return len(found)
      if not packed and not self._stream.eof:
        if self._member and not self._searching:
          self._damaged("the gzip data end too early")
        self._begin(b"")
        return 0

  def _begin(self, data: bytes) -> None:
    """Begins a member with what is read of it already."""
    self._stream, self._member, self._next = zlib.decompressobj(31), bytearray(), data

  def _fresh(self) -> bytes:
    data, self._next = self._next or self._file.read(_CHUNK), b""
    while not self._member and data and not (data := data.lstrip(b"\0")):  # Zeros may lie between members.
      data = self._file.read(_CHUNK)
    if len(self._member) < _KEPT:
      self._member += data
    return data

  def _go_on_behind(self, reason: str, packed: bytes) -> None:
    """Begins anew where a member may begin, behind the beginning of the damaged one."""
    if not self._searching:
      self._damaged(f"the gzip data are damaged ({reason})")
    self._searching = True
    rest, start = bytes(self._member) if len(self._member) < _KEPT else packed, 1
    while (place := rest.find(MAGIC, start)) < 0 and (more := self._file.read(_CHUNK)):
      rest, start = rest[-len(MAGIC) + 1:] + more, 0
    self._begin(rest[place:] if place >= 0 else b"")
