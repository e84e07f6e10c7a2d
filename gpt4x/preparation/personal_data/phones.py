"""Telephone numbers, by the plans of the countries that the library phonenumbers knows."""

from collections.abc import Iterator, Sequence
import re

from gpt4x.errors import UserError
from gpt4x.preparation.personal_data.spans import library, matches, Span, stands_alone

# Where people write numbers in a way that few other numbers are written. In Denmark and Norway eight digits in pairs
# are a number, and so are many dates and codes.
REGIONS = ("US", "GB", "FR", "DE", "IT", "ES", "AU", "BE", "CH", "AT", "NL", "SE", "IE", "ZA", "IN")

_SIGN = r"[ .\-/\x{a0}\x{2010}-\x{2015}]"
_RUNS = (rf"[+(]{{0,2}}[0-9](?:(?:{_SIGN}?\(|\){_SIGN}?|{_SIGN})?[0-9]){{6,}}"
         r"(?:,? ?(?:x|#|ext\.? ?)[0-9]{1,6})?")
_JOINTS = ".:-/,"
_LONGEST = 40  # Characters; what is longer is a table.
_MOST_DIGITS = 21  # 15 by ITU-T E.164, and an extension.
# A fraction, an IP address, a ratio, "0 123456".
_OTHERS = re.compile(r"[+\d]\d*\.\d+|\d{1,3}(?:\.\d{1,3}){3}|[1-9]\d*/\d+|\D*0\D.*")
_LABELS = re.compile(
    r"(?<![\w./-])(?:t[eé]l[eé](?:phone|fono|fone|fon)|phone|tel|mobile?|mob|cell(?:ular|phone)?|m[oó]vil|handy|portable"
    r"|fax|landline|hotline|whatsapp|desk|call (?:me|us) (?:at|on))(?: (?:no|nr|num|number))?"
    r"\.?(?:\s{0,2}[:#]|\s)\s{0,2}$", re.IGNORECASE)


def find(text: str, regions: Sequence[str] = REGIONS) -> Iterator[Span]:
  """Numbers with their country (+44 ...); those of a region as it groups its digits; seven to 15 digits behind "Tel.:".

  Digits without a space, a sign or a "+" are found behind such a word alone: they could be anything.
  """
  for match in matches(_RUNS, text):
    start, end = match.span()
    if text[start] == "(" and match.group().count("(") > match.group().count(")"):  # Of the sentence.
      start += 1
    run = text[start:end]
    if len(run) > _LONGEST or _OTHERS.fullmatch(run) or not stands_alone(text, start, end, _JOINTS):
      continue
    if run.startswith(("+", "(+")):
      yield from _by_plan(text, start, end, regions[:1], "VALID")
    elif _LABELS.search(text[max(0, start - 32):start]) and sum(map(str.isdigit, run)) <= _MOST_DIGITS:
      yield Span(start, end, "phone")
    elif not run.isdigit():
      yield from _by_plan(text, start, end, regions, "EXACT_GROUPING")


def _by_plan(text: str, start: int, end: int, regions: Sequence[str], leniency: str) -> Iterator[Span]:
  """What the first region whose numbers stand here has of them."""
  phonenumbers = library("phonenumbers", "phonenumbers")
  for region in regions:
    if region not in phonenumbers.SUPPORTED_REGIONS:
      raise UserError(f"PersonalData.regions has {region!r}, which is no region of a telephone plan: use codes of two"
                      " letters, such as 'US'")
    matcher = phonenumbers.PhoneNumberMatcher(text[start:end], region, getattr(phonenumbers.Leniency, leniency))
    found = [Span(start + one.start, start + one.end, "phone") for one in matcher
             if not one.raw_string.strip("()").isdigit()]
    if found:
      yield from (span for span in found if stands_alone(text, span.start, span.end, _JOINTS))
      return
