"""Files of knowledge: triples in lines of `head<TAB>relation<TAB>tail`, or entities as Wikidata's dumps have them.

    {"id": "Q42", "labels": {"en": {"value": "Douglas Adams"}}, "descriptions": {"en": {"value": "writer"}},
     "claims": {"P31": [{"mainsnak": {"datavalue": {"value": {"id": "Q5"}}}}]}},

an entity on each line, with or without the list around all of them. Of its claims, those count whose value is an
entity, and that are not deprecated. The content tells which kind a file is, and whether it is packed.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import itertools
import json
from typing import Any, NamedTuple

from gpt4x.data import objects
from gpt4x.data.objects import Stat
from gpt4x.data.text_files import READ_ERRORS, shown, unpacked
from gpt4x.errors import UserError

_TRIPLE, _NAME = "head<TAB>relation<TAB>tail", "id<TAB>name, with or without <TAB>description"
_TEMPLATE = "relation<TAB>{head} is a kind of {tail}"
Bad = Callable[[str], None]


class Triple(NamedTuple):
  """A fact, by the ids of its ends and of what relates them."""

  head: str
  relation: str
  tail: str


@dataclasses.dataclass
class Found:
  """What files hold: triples in their order, each once, and what things are called."""

  triples: dict[Triple, None] = dataclasses.field(default_factory=dict)
  names: dict[str, str] = dataclasses.field(default_factory=dict)
  descriptions: dict[str, str] = dataclasses.field(default_factory=dict)
  records: int = 0  # Lines that hold one.


def read_triples(files: Iterable[Stat], language: str, bad: Bad) -> Found:
  """The triples of files, with the names that dumps have; `bad` is called with what is wrong with a line."""
  found = Found()
  for place, line, is_json in _lines(files, "LocalGraph.files", bad):
    try:
      if is_json:
        found.records += _entity(line, language, found)
      else:
        found.triples[Triple(*_fields(line, (3,), _TRIPLE))] = None
        found.records += 1
    except (ValueError, RecursionError) as error:
      bad(f"{place}: {_reason(error)}")
  return found


def read_names(files: Iterable[Stat], bad: Bad) -> tuple[dict[str, str], dict[str, str]]:
  """Names and descriptions by id."""
  names, descriptions = dict[str, str](), dict[str, str]()
  for place, line, _ in _lines(files, "LocalGraph.names", bad):
    try:
      one, name, *description = _fields(line, (2, 3), _NAME)
      if names.setdefault(one, name) != name:
        raise ValueError(f"{one!r} is called {names[one]!r} above: take one of them out")
      if description:
        descriptions[one] = description[0]
    except ValueError as error:
      bad(f"{place}: {_reason(error)}")
  return names, descriptions


def read_templates(files: Iterable[Stat], bad: Bad) -> dict[tuple[str, bool], str]:
  """Templates by relation, and by whether the tail comes first, which asks for the head."""
  found = dict[tuple[str, bool], str]()
  for place, line, _ in _lines(files, "LocalGraph.templates", bad):
    try:
      relation, template = _fields(line, (2,), _TEMPLATE)
      if template.count("{head}") != 1 or template.count("{tail}") != 1:
        raise ValueError(f"{template!r} has not {{head}} and {{tail}} once each, as in {_TEMPLATE}: correct it")
      backwards = template.index("{tail}") < template.index("{head}")
      if found.setdefault((relation, backwards), template) != template:
        raise ValueError(f"{relation!r} has a template with the same end first above: take one of them out")
    except ValueError as error:
      bad(f"{place}: {_reason(error)}")
  return found


def _lines(files: Iterable[Stat], parameter: str, bad: Bad) -> Iterator[tuple[str, bytes, bool]]:
  """(PATH:LINE, line, whether the file is JSON) of all lines that are not blank."""
  for path, opened in objects.opened(files):
    try:
      with opened or open(path, "rb") as file:
        lines = ((number, line.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n"))
                 for number, line in enumerate(unpacked(file), 1))
        lines = ((number, line) for number, line in lines if line.strip())
        first = next(lines, None)
        is_json = first is not None and first[1].lstrip()[:1] in (b"{", b"[")
        for number, line in itertools.chain([first] if first else [], lines):
          yield f"{shown(path)}:{number}", line, is_json
    except READ_ERRORS as error:
      reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
      raise UserError(f"cannot read {shown(path)} ({reason}): mend it, or take it out of {parameter}") from error


def _fields(line: bytes, counts: tuple[int, ...], form: str) -> list[str]:
  fields = [" ".join(field.split()) for field in line.decode().split("\t")]
  if len(fields) not in counts or not all(fields):
    raise ValueError(f"{len(fields)} fields{' with one that is empty' if '' in fields else ''}, and not {form}:"
                     " correct it")
  return fields


def _entity(line: bytes, language: str, found: Found) -> int:
  """Adds what a line of a dump says; 0 for one that only begins or ends the list."""
  text = line.decode().strip()
  if text in ("[", "]"):
    return 0
  entity: Any = json.loads(text.removesuffix(","))
  try:
    one, claims = entity["id"], entity.get("claims") or {}  # An empty object is a list in some dumps.
    if not isinstance(one, str) or not one:
      raise KeyError("id")
    name, description = (next((values[key]["value"] for key in (language, "mul") if key in values), None)
                         for values in (dict(entity.get(kind) or {}) for kind in ("labels", "descriptions")))
    statements = [(relation, statement) for relation, some in dict(claims).items() for statement in some]
    tails = [(relation, _tail(statement)) for relation, statement in statements]
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise ValueError('not an entity such as {"id": "Q42", "labels": {...}, "claims": {...}}: correct it') from error
  if name:
    found.names[one] = " ".join(str(name).split())
  if description:
    found.descriptions[one] = " ".join(str(description).split())
  found.triples |= {Triple(one, relation, tail): None for relation, tail in tails if tail}
  return 1


def _tail(statement: Any) -> str | None:
  """The entity that a statement names; None for another kind of value, or for none."""
  value = statement["mainsnak"].get("datavalue", {}).get("value")
  if statement.get("rank") == "deprecated" or not isinstance(value, dict):
    return None
  if "id" in value:
    return str(value["id"])
  number = value.get("numeric-id")  # All that older dumps have.
  return None if number is None else f"{'P' if value.get('entity-type') == 'property' else 'Q'}{number}"


def _reason(error: Exception) -> str:
  if isinstance(error, json.JSONDecodeError):
    return f"no JSON of an entity ({error.msg} at column {error.colno}): correct it"
  if isinstance(error, UnicodeDecodeError):
    return f"not UTF-8 at byte {error.start} of the line: convert the file"
  return "too many levels: correct it" if isinstance(error, RecursionError) else str(error)
