"""Which records are held out for validation, where nobody says so."""

from collections.abc import Collection
import hashlib
import math

PERCENT = 5
MANY = 200  # Groups of records from which on the hash of each decides; of fewer, those with the lowest are held out.


def held_out(groups: Collection[str]) -> set[str]:
  """The groups of records that are for validation, by their hashes: about 5%, and at least one."""
  if len(groups) < MANY:
    return set(sorted(groups, key=hash_of)[:math.ceil(len(groups) * PERCENT / 100)])
  return {one for one in groups if hash_of(one) % 100 < PERCENT}


def hash_of(text: str) -> int:
  """A number below 2^64, the same in every process."""
  return int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16], 16)
