"""Changes to files: each takes a random generator and the file's bytes, and gives other bytes."""

from collections.abc import Callable, Iterator
import io
import json
import pickle
import pickletools
import random
import struct
from typing import Any
import zipfile

Mutation = Callable[[random.Random, bytes], bytes]

SIZES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63,
         2**64 - 1)


def flip_bits(rng: random.Random, content: bytes) -> bytes:
  changed = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
  return bytes(changed)


def truncate(rng: random.Random, content: bytes) -> bytes:
  return content[:rng.randrange(len(content) + 1)]


def splice(rng: random.Random, content: bytes) -> bytes:
  """Takes a piece out, or puts one in: a copy of another or random bytes."""
  start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
  end = min(end, start + rng.choice((1, 4, 16, 256, 1 << 20)))
  place = rng.randrange(len(content) + 1)
  return rng.choice((content[:start] + content[end:], content[:place] + content[start:end] + content[place:],
                     content[:place] + rng.randbytes(rng.choice((1, 2, 8, 64))) + content[place:]))


def edit_length(rng: random.Random, content: bytes) -> bytes:
  """Writes an extreme whole number over what may be one."""
  width = rng.choice((1, 2, 4, 8))
  number = (rng.choice(SIZES) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "little", "big")))
  place = rng.randrange(max(1, len(content) - width))
  return content[:place] + number + content[place + width:]


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, splice, edit_length)


def any_of(*mutations: Mutation) -> Mutation:
  """One of these, sometimes several in turn."""
  def mutate(rng: random.Random, content: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
      content = rng.choice(mutations)(rng, content)
    return content
  return mutate


# Text and JSON.

_CHARACTERS = ("\0", "\n", "\r", "\u2028", " ", "\t", "'", '"', "\\", "%", "@", "{", "}", "[", "(", ")", "=", "/",
               "..", "-", "\x1b[31m",
               "é", "\ufeff", "\U0001f600", "9" * 5000, "[" * 3000, "(" * 300, "1e999", "NaN", "None", "-1")


def edit_text(rng: random.Random, content: bytes) -> bytes:
  """Puts something odd in, or takes, copies or swaps lines."""
  text = content.decode("utf-8", "surrogateescape")
  lines = text.splitlines(keepends=True) or [""]
  i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
  match rng.randrange(4):
    case 0 | 1:
      place = rng.randrange(len(text) + 1)
      return (text[:place] + rng.choice(_CHARACTERS) + text[place + rng.choice((0, 0, 1, 5)):]).encode(
          "utf-8", "surrogateescape")
    case 2:
      lines[i], lines[j] = lines[j], lines[i]
    case 3:
      lines.insert(i, lines[j])
  return "".join(lines).encode("utf-8", "surrogateescape")


def _odd_values(rng: random.Random) -> Any:
  deep: Any = rng.choice(([], {}, 1))
  for _ in range(rng.choice((1, 25, 900))):
    deep = rng.choice(([deep], {"a": deep}))
  return rng.choice((None, True, False, 0, -0.0, -1, 1, 2, 3, 0.5, -0.5, 1e-320, 1e308, 10**12, -10**12, 2**31, 2**63,
                     10**400,
                     "", "..", "/", ".", "a/b", "\0", "\n", "\ud800", "x" * 5000, "NaN", [], {}, [[]], [None], ["a"],
                     [1, 2],
                     {"a": 1}, float("nan"), float("inf"), float("-inf"), deep))


def edit_json(rng: random.Random, content: bytes) -> bytes:
  """Changes the structure: a value, a name, an entry; or the text that it is written as."""
  try:
    tree = json.loads(content)
    nodes = list(_containers(tree))
  except (ValueError, RecursionError):
    return flip_bits(rng, content)
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    node = rng.choice(nodes) if nodes else {}
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
      continue
    key, other = rng.choice(keys), rng.choice(keys)
    match rng.randrange(6):
      case 0 | 1:
        node[key] = _odd_values(rng)
      case 2:
        node[key], node[other] = node[other], node[key]
      case 3:
        del node[key]
      case 4 if isinstance(node, dict):
        node[rng.choice(("", "x", "\n", "é", str(key) + "s", "\ud800"))] = node.pop(key)
      case 5 if type(node[key]) in (int, float):
        half = node[key] * 0.5 if abs(node[key]) < 1e300 else 0.5
        node[key] = rng.choice((-node[key], node[key] * 10**9, node[key] + 1, half, str(node[key]), [node[key]]))
  text = json.dumps(tree).replace("1e+308", rng.choice(("1e+308", "1e999")))
  if rng.random() < 0.1 and (name := text.find('"')) >= 0:  # The first entry twice.
    text = text[:name] + text[name:].split(", ")[0] + ", " + text[name:]
  encoded = text.encode("utf-8", "surrogatepass")
  return rng.choice((encoded,) * 8 + (b"\xef\xbb\xbf" + encoded, text.encode("utf-16"), b"[" * 100_000, encoded * 2))


def _containers(tree: Any) -> Iterator[Any]:
  if isinstance(tree, (dict, list)):
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree:
      yield from _containers(child)


def json_in_safetensors(rng: random.Random, content: bytes) -> bytes:
  """Changes the header, and mostly has its length right."""
  size, = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
  header = rng.choice((edit_json, edit_json, edit_text))(rng, content[8:8 + size])
  length = len(header) if rng.random() < 0.9 else rng.choice(SIZES)
  return struct.pack("<Q", length) + header + content[8 + size:]


# Pickles.

# Operations that a fair pickle has few of, some of them with a size that is not there or beyond all bounds.
ODD_OPERATIONS = (
    b"b", b"}b", b")b", b"(b", b"0", b"1", b"2", b"(", b"]", b"}", b")", b"\x85", b"\x86", b"\x87", b"t", b"l", b"d",
    b"e", b"a",
    b"s", b"u", b"R", b"Q", b"o", b"\x81", b"\x92", b"\x93", b"\x94", b"\x8f", b"\x90", b"\x91", b"\x97", b"\x98",
    b".", b"N",
    b"\x88", b"K\x00", b"J\xff\xff\xff\xff", b"M\xff\xff", b"\x8a\x08" + b"\x7f" * 8, b"\x8a\x00",
    b"\x8a\xff" + b"\x7f" * 255,
    b"\x8b\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\x7f",
    b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x96" + b"\xff" * 7 + b"\x7f", b"B\xff\xff\xff\xff", b"X\xff\xff\xff\xff",
    b"X\x00\x00\x00\x00",
    b"T\xff\xff\xff\xff", b"T\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"\x80\xff", b"\x82\x01", b"\x83\x01\x00",
    b"\x84\x01\x00\x00\x00",
    b"I99999999999999999999\n", b"L" + b"9" * 5000 + b"L\n", b"Fnan\n", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"Pkey\n",
    b"cbuiltins\neval\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nLongStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"cos\nsystem\n",
    b"ios\nsystem\n", b"q\x00", b"h\x00", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"p-1\n", b"g-1\n", b"g99\n",
    b"]" + b"2\x85" * 40, b"]" + b"2\x86" * 60, b")" + b"\x85" * 5000, b"]" * 3000 + b"a" * 2999, b"}2K\x01\x86s",
    b"]2a")


_NUMBERS = {b"K", b"M", b"J", b"\x8a", b"I", b"L"}  # The operations that push a whole number.


def _push(value: Any) -> bytes:
  """Operations that push a plain value."""
  return pickle.dumps(value, protocol=2)[2:-1].replace(b"q\x00", b"")


def _odd_number(rng: random.Random) -> bytes:
  number = rng.choice((-1, -2, -8, 0, 1, 2, 5, 10**9, *SIZES, -2**31, -2**63, 2**200))
  return _push(rng.choice((number,) * 6 + (True, None, 0.5, "7")))


def odd_number(rng: random.Random, content: bytes) -> bytes:
  """Another number in the place of one: a size, an offset, a stride, an id."""
  operations, end = _operations(content)
  places = [i for i, operation in enumerate(operations) if operation[:1] in _NUMBERS]
  for _ in range(rng.choice((1, 1, 2))):
    if places:
      operations[rng.choice(places)] = _odd_number(rng)
  return b"".join(operations) + content[end:]


def odd_object(rng: random.Random, content: bytes) -> bytes:
  """Puts in what leaves the stack as it was: fields that are set, a key or a member whose hash or size explodes."""
  operations, end = _operations(content)
  tuples = rng.choice((b"\x85" * rng.choice((1, 2, 3, 10, 100, 1000, 10_000, 500_000)), b"2\x86" * rng.choice((5, 60))))
  fields = rng.choice(("offset", "shape", "strides", "storage", "size", "numbers", "dtype", "key", "__class__",
                       "_metadata", "names", "type", "itemsize", "__dict__"))
  state = b"}" + _push(fields) + rng.choice((_odd_number(rng), b"(" + _odd_number(rng) * 2 + b"t", b"N")) + b"s"
  extra = rng.choice((
      b"})" + tuples + b"Ns0", b"\x8f()" + tuples + b"\x900", b"()" + tuples + b"\x910", b"]2a0", b"}2Xa\0\0\0as0",
      b"]" + b"]" * 50_000 + b"a" * 50_000 + b"0", b"ccollections\nCounter\n})" + tuples + b"Ns\x85R0",
      b"ccollections\nOrderedDict\n](]" + tuples + b"Nea\x85R0",
      state + b"b", b"N" + state + b"\x86b", b"cos\nsystem\nXa\0\0\0a\x85R0"))
  operations.insert(rng.randrange(len(operations) + 1), extra)
  if rng.random() < 0.5:  # After a call, where what was made lies on the stack.
    calls = [i for i, operation in enumerate(operations) if operation[:1] in (b"R", b"Q", b"c")]
    if calls:
      operations.insert(rng.choice(calls) + 1, rng.choice((state + b"b", b"N" + state + b"\x86b")))
  return b"".join(operations) + content[end:]


def edit_pickle(rng: random.Random, content: bytes) -> bytes:
  """Takes, copies, swaps or adds operations, or gives one another argument; what follows the pickle stays."""
  operations, end = _operations(content)
  for _ in range(rng.choice((1, 1, 2, 3, 6))):
    i, j = rng.randrange(len(operations) + 1), rng.randrange(len(operations) + 1)
    match rng.randrange(7):
      case 0 if operations:
        del operations[i % len(operations)]
      case 1 if operations:
        operations.insert(i, operations[j % len(operations)])
      case 2 | 3:
        operations.insert(i, rng.choice(ODD_OPERATIONS))
      case 4 if operations:
        i, j = i % len(operations), j % len(operations)
        operations[i], operations[j] = operations[j], operations[i]
      case 5 if operations:
        i = i % len(operations)
        operations[i] = operations[i][:1] + edit_length(rng, operations[i][1:])
      case 6:
        i, j = sorted((i, j))
        operations[i:i] = operations[i:min(j, i + 50)]
  return b"".join(operations) + content[end:]


def random_pickle(rng: random.Random, content: bytes) -> bytes:
  """Operations of this pickle and odd ones in any order."""
  operations, end = _operations(content)
  chosen = [rng.choice(operations or [b"N"]) if rng.random() < 0.7 else rng.choice(ODD_OPERATIONS)
            for _ in range(rng.randrange(1, 60))]
  return b"\x80\x02" + b"".join(chosen) + b"." + content[end:]


def _operations(content: bytes) -> tuple[list[bytes], int]:
  """The operations of the pickle that the bytes start with, as far as they can be read, and its end."""
  places = []
  try:
    for _, _, place in pickletools.genops(content):
      places.append(place)
  except Exception:
    places.append(len(content))
  end = places[-1] + (content[places[-1]:places[-1] + 1] == b".") if places else 0
  return [content[a:b] for a, b in zip(places, [*places[1:], end])], end


def last_pickle(mutate: Mutation, count: int) -> Mutation:
  """Changes the pickle that follows `count` others."""
  def change(rng: random.Random, content: bytes) -> bytes:
    file = io.BytesIO(content)
    try:
      for _ in range(count):
        for _ in pickletools.genops(file):
          pass
    except Exception:
      return mutate(rng, content)
    return content[:file.tell()] + mutate(rng, content[file.tell():])
  return change


def in_zip(mutate: Mutation, ending: str = "") -> Mutation:
  """Changes an entry, one whose name ends so, of an archive that is else as it should be."""
  def change(rng: random.Random, content: bytes) -> bytes:
    try:
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
      return flip_bits(rng, content)
    chosen = [i for i, (name, _) in enumerate(entries) if name.endswith(ending)]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
      chosen = rng.choice(chosen) if chosen else -1
      for i, (name, entry) in enumerate(entries):
        archive.writestr(name, mutate(rng, entry) if i == chosen else entry)
    return written.getvalue()
  return change
