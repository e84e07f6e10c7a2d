"""What general-purpose compressors make of held-out text, in bits per byte: what a model is judged against."""

import contextlib
import hashlib
import importlib
import json

from gpt4x import run_directory, storage
from gpt4x.data.dataset import Dataset

_COMPRESSORS = {"gzip -9": ("gzip", {"compresslevel": 9}), "xz -9": ("lzma", {"preset": 9})}


def of_split(model_dir: str, data: Dataset, split: str) -> dict[str, float]:
  """Bits per byte of the text of a split, by compressor; kept in DIR/compressors.json for as long as it is that text.

  Compressors that this Python was built without are left out.
  """
  text = "".join(data.vocabulary.decode(document.tolist()) for document in data.documents(split))
  content = text.encode(errors="surrogatepass")
  digest = hashlib.sha256(content).hexdigest()
  if (known := _read(model_dir)).get("sha256") != digest:
    known = {"sha256": digest, "split": split, "bytes": len(content), "bits_per_byte": _compress(content)}
    with contextlib.suppress(OSError):  # Of a directory that may only be read, the figures are for this time alone.
      storage.write(storage.path(model_dir) / run_directory.COMPRESSORS, (json.dumps(known) + "\n").encode())
  return known["bits_per_byte"]


def known_of(model_dir: str) -> dict[str, float]:
  """What `of_split` has kept; empty before that."""
  return _read(model_dir).get("bits_per_byte", {})


def _compress(content: bytes) -> dict[str, float]:
  found = {}
  for name, (module, options) in _COMPRESSORS.items():
    with contextlib.suppress(ImportError):
      compressed = importlib.import_module(module).compress(content, **options)
      found[name] = 8 * len(compressed) / max(len(content), 1)
  return found


def _read(model_dir: str) -> dict:
  """The file; empty where there is none, or it is damaged."""
  with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
    found = json.loads(storage.read(storage.path(model_dir) / run_directory.COMPRESSORS) or b"")
    if all(isinstance(bits, float) for bits in found["bits_per_byte"].values()):
      return found
  return {}
