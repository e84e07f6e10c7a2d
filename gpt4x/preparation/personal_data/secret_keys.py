"""What opens doors: keys and tokens by the form that their services give them, and values that a key is assigned."""

import collections
from collections.abc import Iterator
import math

from gpt4x.preparation.personal_data.spans import Span, spans, stands_alone

_TOKENS = "|".join((
    r"(?:AKIA|ASIA|AIDA|AROA|AGPA|AIPA|ANPA|ANVA)[A-Z2-7]{16}",  # Amazon Web Services.
    r"gh[pousr]_[A-Za-z0-9]{36,}", r"github_pat_[A-Za-z0-9_]{60,}",  # GitHub.
    r"glpat-[A-Za-z0-9_\-]{20,}",  # GitLab.
    r"xox[abeoprs]-[A-Za-z0-9\-]{10,}", r"xapp-[0-9]-[A-Za-z0-9\-]{20,}",  # Slack.
    r"AIza[A-Za-z0-9_\-]{35}", r"ya29\.[A-Za-z0-9_\-]{20,}", r"GOCSPX-[A-Za-z0-9_\-]{28}",  # Google.
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe.
    r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_\-]{32,}", r"sk-ant-[A-Za-z0-9_\-]{32,}", r"sk-[A-Za-z0-9]{48}",  # Models.
    r"hf_[A-Za-z0-9]{34,}", r"npm_[A-Za-z0-9]{36}", r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_\-]{50,}",  # Hubs of packages.
    r"SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}",  # SendGrid.
    r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+"))  # JSON Web Tokens (RFC 7519).
_WEBHOOKS = r"https://hooks\.slack\.com/services/[A-Z0-9]+/[A-Z0-9]+/[A-Za-z0-9]+"
# Lines may be strings of a program, with quotes and \n. The head "Name: value" is that of RFC 1421.
_GAP = r"(?:\s|\\[nrt]|[\"'+,\\])"
_KEY_BLOCKS = (rf"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:{_GAP}*[A-Za-z\-]+: [^\n\\]*)*"
               rf"(?:{_GAP}+[A-Za-z0-9+/=]{{16,}})+(?:{_GAP}+[A-Za-z0-9+/=]+)?"
               rf"(?:{_GAP}*-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)?")
_ASSIGNMENTS = (r"(?i)(?:password|passwd|secret|token|api_?-?key|access_?-?key|private_?-?key|auth_?-?key"
                r"|credentials?)[\"']?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']([A-Za-z0-9+/_=.~!@#$%^&*\-]{20,128})[\"']")
_AWS_SECRETS = (r"(?i)aws_?(?:secret)?_?(?:access)?_?key[\"']?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']?([A-Za-z0-9/+]{40})")
_LEAST_BITS = 3.5  # Of entropy a character; 32 random hexadecimal digits have 3.6 in the mean.


def find(text: str) -> Iterator[Span]:
  """Keys by their forms; other values only in quotes behind a name such as `api_key =`, and if they look random."""
  for pattern in _TOKENS, _WEBHOOKS:
    yield from (span for span in spans(pattern, text, "secret") if stands_alone(text, span.start, span.end))
  if "PRIVATE KEY" in text:
    yield from spans(_KEY_BLOCKS, text, "secret")
  for pattern in _AWS_SECRETS, _ASSIGNMENTS:
    for span in spans(pattern, text, "secret", group=1):
      if stands_alone(text, span.start, span.end) and _is_random(text[span.start:span.end]):
        yield span


def _is_random(value: str) -> bool:
  """Whether digits and letters are mixed as a generator mixes them."""
  digits, letters = sum(map(str.isdigit, value)), sum(map(str.isalpha, value))
  counts = collections.Counter(value).values()
  bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
  return digits >= 3 and letters >= 3 and bits >= _LEAST_BITS
