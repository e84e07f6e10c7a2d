"""A datastore of hidden states: keys, each with the token that followed it, found by their distance to a query.

A folder. `note.json`, which is written last, says of which parameters and of which text. `keys.bin` has the keys in
float16, grouped into the lists of an inverted file: list i has the keys that are nearest to row i of `centroids.bin`,
from `offsets.bin[i]` on. `tokens.bin` has the token behind each key, `places.bin` where it stands in the text. All of
it is read in place: no more of the keys is in memory than the lists that a query looks into.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any, Self

from jaxtyping import Float, Int
import numpy as np

from gpt4x import storage
from gpt4x.data import prepared
from gpt4x.errors import UserError

NOTE, TUNED = "note.json", "tuned.json"
SMALL = 50_000  # Keys; a store of no more has one list, so that each search of it is exact.
BLOCK = 1 << 16  # Keys that are in memory at a time, as float32.
_DISTANCES = 1 << 23  # That are in memory at a time.
_VERSION = 1
_SAMPLE = 64  # Keys that the place of a list is found by.
_FILES: Mapping[str, Any] = {"keys.bin": np.float16, "tokens.bin": np.int32, "places.bin": np.int64,
                             "centroids.bin": np.float32, "offsets.bin": np.int64}
_BESIDE = ("tokens.bin", "places.bin")  # A number for each key.


def faiss() -> Any:
  """The package faiss; a UserError says how to install it."""
  try:
    import faiss as found
  except ImportError as error:
    raise UserError(f"nearest neighbours need the package faiss ({error}): pip install 'gpt4x[knowledge]'") from error
  return found


@dataclasses.dataclass(frozen=True)
class Source:
  """What the keys of a store are the states of.

  Attributes:
    step: of the checkpoint.
    checksum: of its parameters.
    layer: the activation, a capture of `TransformerXL`.
    vocabulary: as `vocabularies.spec` has it.
    texts: for the tokens of each task and split, by the hash of their content: its name, the number of its first
      place, and how many it has.
  """

  step: int
  checksum: str
  layer: str
  vocabulary: Mapping[str, Any]
  texts: Mapping[str, tuple[str, int, int]]


class Datastore:
  """A store, opened: its files are compared with their checksums. A UserError says what is wrong with it."""

  def __init__(self, directory: str):
    self.path = storage.path(directory)
    if storage.is_remote(directory):
      raise UserError(f"{directory} is in a bucket, and a datastore is read in place: copy it to a folder of this"
                      " machine")
    note = prepared.read_json(self.path / NOTE)
    if not note:
      raise UserError(f"{directory} is no datastore ({NOTE} is missing): correct the path, or make one by"
                      f" gpt4x datastore --output={directory}")
    try:
      if note["version"] != _VERSION:
        raise ValueError(f"version {note['version']!r}, and this gpt4x reads {_VERSION}")
      self.source = Source(**note["source"])
      self.size, files = int(note["size"]), note["files"]
      for name in _FILES:
        size, crc = storage.size_and_crc(self.path / name)
        if [size, crc] != files[name]:
          why = "it has been altered" if size == files[name][0] else f"it has {size:,} bytes of {files[name][0]:,}"
          raise ValueError(f"{name}: {why}")
    except OSError as error:
      raise self._damaged(f"{os.path.basename(error.filename or '')}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError) as error:
      raise self._damaged(str(error)) from error
    keys, self._tokens, self._places, centroids, self._offsets = (
        np.memmap(self.path / name, dtype, "r") for name, dtype in _FILES.items())
    self._keys = keys.reshape(len(self._tokens), self.size)
    self._centroids = np.array(centroids).reshape(-1, self.size)

  def __len__(self) -> int:
    return len(self._tokens)

  @property
  def lists(self) -> int:
    """Lists of the inverted file."""
    return len(self._centroids)

  def search(self, queries: Float[np.ndarray, "n D"], k: int, probes: int | None = None,
             own: Int[np.ndarray, " n"] | None = None) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Squared distances of each query's k nearest keys, rising, and the tokens behind these.

    Where fewer are found, the distances at the end are infinite. Equally near ones come in the order of the store.

    Args:
      queries: states.
      k: neighbours.
      probes: lists to look into, those nearest to the query; None: all.
      own: the query's own place in the text, whose key is left out; below 0: it has none.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    wanted = k if own is None else k + 1
    distances: np.ndarray = np.full((len(queries), wanted), np.inf, np.float32)
    places: np.ndarray = np.full((len(queries), wanted), -1, np.int64)
    for rows, start, stop in self._visits(queries, probes):
      # All distances, then the least: faiss.knn keeps a heap, which takes 5 times as long where lists are short.
      near = faiss().pairwise_distances(queries[rows], np.asarray(self._keys[start:stop], np.float32))
      near = np.concatenate([distances[rows], near], 1)
      best = np.argpartition(near, wanted - 1, 1)[:, :wanted]
      before = np.take_along_axis(places[rows], np.minimum(best, wanted - 1), 1)
      distances[rows] = np.take_along_axis(near, best, 1)
      places[rows] = np.where(best < wanted, before, start + best - wanted)
    distances = np.maximum(distances, 0)  # A product's rounding may leave less.
    if own is not None:
      distances[(self._places[places] == np.asarray(own)[:, None]) & (places >= 0)] = np.inf
    order = np.lexsort((places, distances))[:, :k]
    distances, places = (np.take_along_axis(x, order, 1) for x in (distances, places))
    return distances, np.where(places < 0, 0, self._tokens[places]).astype(np.int32)

  def _visits(self, queries: np.ndarray, probes: int | None) -> Iterator[tuple[Any, int, int]]:
    """(queries, first key, end of the keys) of each block of keys that some queries are compared with."""
    def blocks(rows, count, first, end):
      size = min(BLOCK, max(1024, _DISTANCES // count))
      return ((rows, start, min(start + size, end)) for start in range(first, end, size))

    if probes is None or probes >= self.lists:
      yield from blocks(slice(None), len(queries), 0, len(self))
      return
    _, nearest = faiss().knn(queries, self._centroids, probes)
    order = np.argsort(nearest.ravel(), kind="stable")
    found, begins = np.unique(nearest.ravel()[order], return_index=True)
    for one, rows in zip(found.tolist(), np.split(order // probes, begins[1:])):
      yield from blocks(rows, len(rows), *self._offsets[one:one + 2].tolist())

  def check(self, source: Source, directory: str) -> None:
    """Raises UserError unless the store has states of this checkpoint; `texts` of it do not count."""
    mine = self.source
    if mine.checksum != source.checksum or mine.step != source.step:
      what = "other parameters" if mine.checksum != source.checksum else "another step"
      raise self._wrong(f"{what} (step {mine.step}, {mine.checksum[:8]}), and {directory} has step {source.step},"
                        f" {source.checksum[:8]}")
    if mine.layer != source.layer:
      raise self._wrong(f"the layer {mine.layer}, and NearestNeighbours.layer = {source.layer!r}")
    if dict(mine.vocabulary) != dict(source.vocabulary):
      raise self._wrong(f"another vocabulary ({mine.vocabulary.get('class')}) than that of {directory}")

  def tuned(self) -> dict[str, Any]:
    """What was tuned for this store; empty if nothing was."""
    return prepared.read_json(self.path / TUNED)

  def keep_tuned(self, found: Mapping[str, Any]) -> None:
    storage.write(self.path / TUNED, json.dumps(found, indent=2).encode())

  def _wrong(self, why: str) -> UserError:
    return UserError(f"the datastore {self.path} was made of {why}: make it anew by gpt4x datastore, or name another")

  def _damaged(self, why: str) -> UserError:
    return UserError(f"the datastore {self.path} is damaged ({' '.join(why.split())}): copy it again, or make it anew"
                     " by gpt4x datastore")


class Writer:
  """Writes a store into a folder of this machine, piece by piece; it counts from `finish` on."""

  def __init__(self, folder: pathlib.Path, size: int):
    """Takes an empty folder, and D, the numbers of a key."""
    self._folder, self._size, self._count = folder, size, 0
    faiss()  # Missing now, and not when all keys are there.

  def __enter__(self) -> Self:
    self._files = {name: open(self._folder / f"{name}.unsorted", "wb")  # noqa: SIM115  Closed by __exit__.
                   for name in ("keys.bin", *_BESIDE)}
    return self

  def __exit__(self, *_: Any) -> None:
    for file in self._files.values():
      file.close()

  def add(self, keys: Float[np.ndarray, "n D"], tokens: Int[np.ndarray, " n"], places: Int[np.ndarray, " n"]) -> None:
    """Adds keys with the tokens that followed, and where these stand."""
    with np.errstate(over="ignore"):
      halves = np.asarray(keys, np.float32).astype(np.float16)
    if not np.isfinite(halves).all():
      raise UserError("a hidden state is beyond float16, up to 65,504: choose --layer=final, or another model")
    for name, values in zip(self._files, (halves, tokens, places)):
      self._files[name].write(np.ascontiguousarray(values, _FILES[name]).tobytes())
    self._count += len(keys)

  def finish(self, source: Source, lists: int | None = None) -> None:
    """Groups the keys into lists (None: one of few keys, else about their root), and writes the note."""
    if not self._count:
      raise UserError("the datastore would be empty: choose a split with tokens")
    for file in self._files.values():
      file.close()
    keys = self._unsorted("keys.bin").reshape(-1, self._size)
    lists = lists or (1 if self._count <= SMALL else round(self._count**0.5))
    centroids = self._centroids(keys, min(lists, self._count))
    nearest = np.concatenate([faiss().knn(np.asarray(keys[start:start + BLOCK], np.float32), centroids, 1)[1][:, 0]
                              for start in range(0, self._count, BLOCK)]).astype(np.int32)
    order, counts = np.argsort(nearest, kind="stable"), np.bincount(nearest, minlength=len(centroids))
    for name in ("keys.bin", *_BESIDE):
      unsorted = keys if name == "keys.bin" else self._unsorted(name)
      with open(self._folder / name, "wb") as file:
        for start in range(0, self._count, BLOCK):
          file.write(unsorted[order[start:start + BLOCK]].tobytes())
    np.asarray(centroids[counts > 0], np.float32).tofile(self._folder / "centroids.bin")
    np.cumsum([0, *counts[counts > 0]], dtype=np.int64).tofile(self._folder / "offsets.bin")
    for name in self._files:
      (self._folder / f"{name}.unsorted").unlink()
    files = {name: storage.size_and_crc(self._folder / name) for name in _FILES}
    note = {"version": _VERSION, "size": self._size, "source": dataclasses.asdict(source), "files": files}
    storage.write(self._folder / NOTE, json.dumps(note, indent=2).encode())

  def _unsorted(self, name: str) -> np.ndarray:
    return np.memmap(self._folder / f"{name}.unsorted", _FILES[name], "r")

  def _centroids(self, keys: np.ndarray, lists: int) -> np.ndarray:
    """The middles of lists, by k-means of keys from everywhere in the text."""
    sample = keys[np.linspace(0, self._count - 1, min(self._count, lists * _SAMPLE), dtype=np.int64)]
    if lists == 1:
      return np.asarray(sample, np.float32).mean(0, keepdims=True)
    means = faiss().Kmeans(self._size, lists, niter=10, seed=0, min_points_per_centroid=1)
    means.train(np.asarray(sample, np.float32))
    return means.centroids


def target_probabilities(distances: Float[np.ndarray, "n k"], tokens: Int[np.ndarray, "n k"],
                         targets: Int[np.ndarray, " n"], temperature: float) -> Float[np.ndarray, " n"]:
  """What the neighbours give each target: softmax(-distance / temperature), summed where the token is the target."""
  with np.errstate(invalid="ignore"):
    closer = np.exp((distances[:, :1] - distances) / temperature)  # Of the nearest, 1.
  closer = np.where(np.isinf(distances), 0.0, closer)
  return (closer * (tokens == targets[:, None])).sum(1) / np.maximum(closer.sum(1), 1e-30)
