"""Numbers of payment cards: an issuer's first digits and length (ISO/IEC 7812), and Luhn's check digit."""

from collections.abc import Iterator
import re

from gpt4x.preparation.personal_data.spans import library, matches, Span, stands_alone

_RUNS = r"[0-9](?:[ \-]?[0-9]){11,}"
_ISSUERS = re.compile("|".join((
    r"4(?:\d{12}|\d{15}|\d{18})",  # Visa.
    r"(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}",  # Mastercard.
    r"3[47]\d{13}",  # American Express.
    r"(?:30[0-5]|309|36\d|3[89]\d)\d{11}",  # Diners Club.
    r"(?:6011|64[4-9]\d|65\d\d)\d{12,15}",  # Discover.
    r"35\d{14,17}", r"(?:1800|2131)\d{11}",  # JCB, new (3528 to 3589; made-up ones have all of 35) and old.
    r"62\d{14,17}",  # UnionPay.
    r"(?:50\d\d|5[6-8]\d\d|0604|6304|6390|67\d\d)\d{8,15}",  # Maestro.
    r"220[0-4]\d{12,15}")))  # Mir.
# Digits as they are printed: all in one, in fours, and as American Express and Diners Club group them. No fours next to
# other fours, which are a table.
_FORMS = tuple(map(re.compile, (
    r"(?<![\d-])\d{12,19}(?![\d-])",
    r"(?<![\d-])(?<!\d{4} )\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?![\d-]| \d{4}(?!\d))",
    r"(?<![\d-])(?<!\d{4} )\d{4}([ -])\d{4}\1\d{4}\1\d{4}\1\d{1,3}(?![\d-])",
    r"(?<![\d-])(?<!\d{4} )\d{4}([ -])\d{6}\1\d{4,5}(?![\d-])")))


def find(text: str) -> Iterator[Span]:
  """Numbers that some issuer may have given out; not fractions, paths, or parts of longer numbers."""
  for match in matches(_RUNS, text):
    run, offset = match.group(), match.start()
    for found in (found for form in _FORMS for found in form.finditer(run)):
      start, end = offset + found.start(), offset + found.end()
      digits = found[0].replace(" ", "").replace("-", "")
      if (_ISSUERS.fullmatch(digits) and len(set(digits)) > 1 and text[start - 1:start] != "/"
          and stands_alone(text, start, end, ".:-") and library("stdnum.luhn", "python-stdnum").is_valid(digits)):
        yield Span(start, end, "card")
