"""The rule that puts tags in the places of values."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import string

import gin

from gpt4x.errors import refuse, require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.personal_data import (
  cards,
  emails,
  ibans,
  ip_addresses,
  phones,
  secret_keys,
  social_security,
)
from gpt4x.preparation.personal_data.spans import matches, Span, spans, without_overlaps

# Earlier kinds win where spans overlap: a key may hold what looks like a card, a card what looks like a phone number.
_FINDERS: dict[str, Callable[[str], Iterable[Span]]] = {
    "secret": secret_keys.find, "email": emails.find, "iban": ibans.find, "card": cards.find,
    "ssn": social_security.find, "ip": ip_addresses.find, "phone": phones.find}
KINDS = tuple(_FINDERS)
_PRIORITIES = {kind: number for number, kind in enumerate(KINDS)}
_PASSES = 16


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PersonalData:
  """Replaces values that belong to persons, and secrets of programs, by tags such as `<EMAIL_1>`.

  The same value has the same number within a document, however its digits are grouped. The field "personal_data" counts
  what was replaced, by kind. A document with tags is left as it is, so that the rule may run twice. Names of persons
  and postal addresses are not covered, nor are values that are spelled out ("joe at home dot org").

  Attributes:
    kinds: what is looked for, of "secret", "email", "iban", "card", "ssn", "ip" (public ones) and "phone".
    tag: what takes a value's place: {kind} in capitals, and {number}, from 1 on, which may be left out.
    regions: whose telephone numbers are known without their "+" and country, by codes of two letters (ISO 3166).
    most: documents with more values are dropped: they are lists of addresses rather than texts.
  """

  kinds: Sequence[str] = KINDS
  tag: str = "<{kind}_{number}>"
  regions: Sequence[str] = phones.REGIONS
  most: int | None = None

  def __post_init__(self):
    require(self, f"some of {', '.join(KINDS)}", lambda kinds: not isinstance(kinds, str) and kinds
            and set(kinds) <= set(KINDS), "kinds")
    require(self, "codes of countries of two capitals, such as ('US', 'GB')", lambda regions: not isinstance(
        regions, str) and regions and all(len(one) == 2 and one.isupper() for one in regions), "regions")
    require(self, "a text with {kind}, such as '<{kind}_{number}>'", _is_tag, "tag")
    require(self, "a whole number from 0 on", lambda most: isinstance(most, int) and most >= 0, "most")
    refuse(self, len(set(self.kinds)) < len(self.kinds), "kinds", "names a kind twice")

  def __call__(self, document: Document) -> Document | Dropped:
    counts: collections.Counter[str] = collections.Counter(document.fields.get("personal_data"))
    text, tags = document.text, dict[tuple[str, str], str]()
    # A tag is a border, where what it replaced may have gone on into the next value: few texts need a second pass.
    for _ in range(_PASSES):
      spans = self.spans(text)
      if not spans:
        break
      counts.update(span.kind for span in spans)
      text = self._with_tags(text, spans, tags)
    if self.most is not None and counts.total() > self.most:
      return Dropped("personal_data", counts.total())
    return document.with_text(text, personal_data=dict(sorted(counts.items()))) if tags else document

  def spans(self, text: str) -> list[Span]:
    """Where values stand, from left to right; no two overlap, and none overlaps a tag."""
    found = [span for kind in self.kinds
             for span in (phones.find(text, self.regions) if kind == "phone" else _FINDERS[kind](text))]
    if not found:
      return []
    kept = without_overlaps([*spans(_tag_pattern(self.tag), text, "tag"), *found], _PRIORITIES | {"tag": -1})
    return [span for span in kept if span.kind != "tag"]

  def _with_tags(self, text: str, spans: Sequence[Span], tags: dict[tuple[str, str], str]) -> str:
    """The text with tags; `tags` has those of the values until now."""
    numbers: collections.Counter[str] = collections.Counter()  # The highest that the text has.
    for match in matches(_tag_pattern(self.tag), text):
      kind, number = match.group("kind"), match.groupdict().get("number") or 0
      numbers[kind] = max(numbers[kind], int(number))
    parts, end = list[str](), 0
    for span in spans:
      kind, value = span.kind.upper(), (span.kind, _plain(text[span.start:span.end], span.kind))
      if value not in tags:
        numbers[kind] += 1
        tags[value] = self.tag.format(kind=kind, number=numbers[kind])
      parts += text[end:span.start], tags[value]
      end = span.end
    return "".join(parts) + text[end:]


def _plain(value: str, kind: str) -> str:
  """A value as it is compared: in small letters, without what groups its digits; secrets as they are."""
  if kind == "secret":
    return value
  if kind in ("email", "ip"):
    return value.lower()
  return "".join(filter(str.isalnum, value)).lower()


def _is_tag(tag: str) -> bool:
  try:
    fields = [field for _, *field in string.Formatter().parse(tag) if field[0] is not None]
  except ValueError:
    return False
  return sorted(fields) in ([["kind", "", None]], [["kind", "", None], ["number", "", None]])


def _tag_pattern(tag: str) -> str:
  """What finds tags, in RE2's syntax."""
  groups = {"kind": f"(?P<kind>{'|'.join(kind.upper() for kind in KINDS)})", "number": "(?P<number>[0-9]{1,9})",
            None: ""}
  quoted = lambda literal: "".join(one if one.isalnum() else rf"\x{{{ord(one):x}}}" for one in literal)
  return "".join(quoted(literal) + groups[name] for literal, name, _, _ in string.Formatter().parse(tag))
