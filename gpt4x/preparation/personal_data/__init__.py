"""Values in texts that belong to persons or open doors: finders, a module for each kind, and the rule that puts tags.

    emails.py           addresses of e-mail
    phones.py           telephone numbers
    cards.py            numbers of payment cards
    ibans.py            numbers of bank accounts
    social_security.py  social security numbers of the United States
    ip_addresses.py     public addresses of the internet protocol
    secret_keys.py      keys, tokens and passwords of programs
    spans.py            where a value stands, its borders, and which of two that overlap is kept
    rule.py             the rule: tags take the values' places

A finder is `find(text) -> Iterator[Span]`. Its time is linear in the length of the text, whatever the text is: RE2
finds candidates in one pass, and each is checked in bounded time.

Names of persons and postal addresses are not covered.
"""

from gpt4x.preparation.personal_data.rule import PersonalData
from gpt4x.preparation.personal_data.spans import Span

__all__ = ["PersonalData", "Span"]
