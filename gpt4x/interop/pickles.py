"""Reads pickles without running what they ask for.

A pickle is a program for a stack machine, which may call any function and set any object's fields. The machine here
has plain values alone: None, booleans, numbers, strings, bytes, tuples, lists, and dictionaries whose keys are strings.
Whoever reads a pickle says what else it may name, and what a call of that gives.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pickletools
from typing import Any

# The 267,735 words of WikiText-103 take 1.6 million. Each may take a hundred bytes of memory.
MAX_OPERATIONS = 5_000_000
_MAX_BITS = 128  # Of a whole number: torch's magic number has 77.

_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "UNICODE", "SHORT_BINUNICODE",
             "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Malformed(Exception):
  """Says in a few words what is wrong with a file."""


@dataclasses.dataclass(frozen=True)
class Name:
  """What stands in a pickle for a function or a class."""

  full: str  # 'module.name'.


class _Opaque:
  """Stands in for objects that are of no use to the reader: takes everything, keeps nothing."""


_OPAQUE = _Opaque()


def read(file: Any, known: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any] | None = None,
         skip_unknown: bool = False) -> Any:
  """Reads one pickle, to its end and no further.

  Args:
    file: a binary file, or what has its `read`, `readline` and `tell`.
    known: what a call of each name gives; None for one that may be named, and not called. Ordered dictionaries and
      counters, which become plain ones, are known besides.
    persistent: gives the value for what the pickle says of an object that lies outside it.
    skip_unknown: objects of other names, and entries of dictionaries whose keys are no strings, are left out, where
      otherwise they are an error.

  Raises:
    Malformed: for what this machine does not do.
    ValueError: for what is no pickle.
  """
  machine = _Machine(known, persistent, skip_unknown)
  try:
    for opcode, argument, _ in pickletools.genops(file):
      machine.do(opcode.name, argument)
    return machine.stack[-1]
  except LookupError as error:
    raise ValueError("its objects refer to others that are not there") from error


class _Machine:

  def __init__(self, known: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any] | None,
               skip_unknown: bool):
    self.stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}
    self._left = MAX_OPERATIONS
    self._known = {"collections.OrderedDict": self._ordered_dict, "collections.Counter": self._counter, **known}
    self._persistent = persistent
    self._skip_unknown = skip_unknown

  def do(self, name: str, argument: Any) -> None:
    """Carries out one operation; the commonest first."""
    self._spend(1)
    stack = self.stack
    match name:
      case "BINPUT" | "LONG_BINPUT" | "PUT":
        self._memo[argument] = stack[-1]
      case "MEMOIZE":
        self._memo[len(self._memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET" | "GET":
        stack.append(self._memo[argument])
      case _ if name in _LITERALS:
        stack.append(argument)
      case "SHORT_BINSTRING" | "BINSTRING":  # Of Python 2, as bytes that pickletools takes for Latin-1.
        stack.append(argument.encode("latin-1").decode("utf-8"))
      case "LONG" | "LONG1" | "LONG4":
        if argument.bit_length() > _MAX_BITS:
          raise Malformed(f"has a whole number of {argument.bit_length()} bits: copy it again")
        stack.append(argument)
      case _ if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case _ if name in _TUPLES:
        stack.append(tuple(self._pop(_TUPLES[name])))
      case "TUPLE":
        stack.append(tuple(self._pop_marked()))
      case "EMPTY_LIST":
        stack.append([])
      case "LIST":
        stack.append(self._pop_marked())
      case "APPEND" | "APPENDS":
        self._extend(self._pop(1) if name == "APPEND" else self._pop_marked())
      case "EMPTY_DICT":
        stack.append({})
      case "DICT":
        items = self._pop_marked()
        stack.append({})
        self._set_items(items)
      case "SETITEM" | "SETITEMS":
        self._set_items(self._pop(2) if name == "SETITEM" else self._pop_marked())
      case "EMPTY_SET":
        stack.append(self._unknown("a set"))
      case "FROZENSET":
        self._pop_marked()
        stack.append(self._unknown("a set"))
      case "ADDITEMS":
        self._pop_marked()
        if stack[-1] is not _OPAQUE:
          raise Malformed("adds to what is no set: copy it again")
      case "MARK":
        self._marks.append(len(stack))
      case "POP":
        if self._marks and self._marks[-1] == len(stack):
          self._marks.pop()
        else:
          stack.pop()
      case "POP_MARK":
        self._pop_marked()
      case "DUP":
        stack.append(stack[-1])
      case "GLOBAL":
        stack.append(self._named(argument.replace(" ", ".", 1)))
      case "STACK_GLOBAL":
        module, attribute = self._pop(2)
        if not isinstance(module, str) or not isinstance(attribute, str):
          raise Malformed("has a name that is no string: copy it again")
        stack.append(self._named(f"{module}.{attribute}"))
      case "REDUCE" | "NEWOBJ":
        stack.append(self._call(*self._pop(2)))
      case "NEWOBJ_EX":
        function, arguments, keywords = self._pop(3)
        stack.append(self._call(function, arguments, keywords))
      case "INST":
        stack.append(self._call(self._named(argument.replace(" ", ".", 1)), tuple(self._pop_marked())))
      case "OBJ":
        function, *arguments = self._pop_marked()
        stack.append(self._call(function, tuple(arguments)))
      case "BUILD":  # Attributes of a dictionary, such as the `_metadata` of a state dict, are of no use.
        self._pop(1)
        if stack[-1] is not _OPAQUE and not isinstance(stack[-1], dict):
          raise Malformed("sets fields of what has none: copy it again")
      case "BINPERSID" if self._persistent:
        stack.append(self._persistent(stack.pop()))
      case "PROTO" | "FRAME" | "STOP":
        pass
      case _:
        raise Malformed(f"has the operation {name}, which neither tensors nor plain containers need: copy it again")

  def _spend(self, operations: int) -> None:
    self._left -= operations
    if self._left < 0:
      raise Malformed(f"has more than {MAX_OPERATIONS:,} operations in its pickle, as no model has: choose another")

  def _pop(self, count: int) -> list[Any]:
    if len(self.stack) < count:
      raise IndexError
    values = self.stack[-count:]
    del self.stack[-count:]
    return values

  def _pop_marked(self) -> list[Any]:
    mark = self._marks.pop()
    values = self.stack[mark:]
    del self.stack[mark:]
    return values

  def _extend(self, values: list[Any]) -> None:
    target = self.stack[-1]
    if isinstance(target, list):
      target.extend(values)
    elif target is not _OPAQUE:
      raise Malformed("appends to what is no list: copy it again")

  def _set_items(self, items: list[Any]) -> None:
    target = self.stack[-1]
    if target is _OPAQUE:
      return
    if not isinstance(target, dict) or len(items) % 2:
      raise Malformed("sets items of what is no dictionary: copy it again")
    for key, value in zip(items[::2], items[1::2]):
      if isinstance(key, str):  # The hash of a tuple in tuples may take for ever, and numbers may have the same one.
        target[key] = value
      elif not self._skip_unknown:
        raise Malformed(f"has a {type(key).__name__} for a key, not a string: save a state dict of tensors")

  def _named(self, full_name: str) -> Any:
    return Name(full_name) if full_name in self._known else self._unknown(full_name)

  def _unknown(self, what: str) -> _Opaque:
    if not self._skip_unknown:
      raise Malformed(f"names {what[:100]}, which is neither a tensor nor a plain container: save a state dict of"
                      " tensors")
    return _OPAQUE

  def _call(self, function: Any, arguments: Any, keywords: Any = None) -> Any:
    if function is _OPAQUE:
      return _OPAQUE
    known = self._known[function.full] if isinstance(function, Name) else None
    if known is None or not isinstance(arguments, tuple) or keywords:
      raise Malformed("calls what is no function of tensors: copy it again")
    return known(*arguments)

  def _ordered_dict(self, pairs: Any = ()) -> dict[str, Any]:
    """Python 2 gives the items to the class."""
    self._spend(len(pairs))  # A list may be used again and again.
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
      raise Malformed("has a dictionary of no pairs: copy it again")
    self.stack.append({})
    self._set_items([value for pair in pairs for value in pair])
    return self.stack.pop()

  def _counter(self, counts: Any = None) -> dict[str, Any]:
    return counts if isinstance(counts, dict) else {}
