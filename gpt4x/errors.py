"""The errors a user can mend: one line that names the thing, the value and the remedy."""

from collections.abc import Callable, Iterable
from typing import Any

_LONGEST = 900  # Characters of a message.


def printable(message: str) -> str:
  """A message as one line of characters that can be printed, and without the middle if it is long."""
  text = "".join(one if one.isprintable() else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}"
                 for one in message.strip())
  return text if len(text) <= _LONGEST else f"{text[:_LONGEST // 2]} ... {text[-_LONGEST // 2:]}"


class UserError(Exception):
  """A mistake in what the run was given; its message is one line, shown without a traceback (exit status 1)."""

  def __str__(self) -> str:  # Not in __init__: TensorFlow makes some errors anew, and only those without one.
    return printable(super().__str__())


class CommandError(UserError):
  """A mistake in the command itself: its flags, or the gin files and names they give (exit status 2)."""


def one_line(what: object, length: int = 200) -> str:
  """What an error or a name says, as a part of a message: its text if that is short and can be printed."""
  text = " ".join(str(what).split()) or type(what).__name__
  text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:length])
  return text if len(text) < length else f"{text} ..."


def nearest(name: str, known: Iterable[str]) -> str:
  """The end of a message about an unknown name: the known name that was probably meant, or else all of them."""
  import difflib  # Only a mistake needs it, not `gpt4x --help`.
  by_lower = {candidate.lower(): candidate for candidate in known}
  for near in difflib.get_close_matches(name.lower(), by_lower, n=1):
    return f": did you mean {by_lower[near]}?"
  return f": known are {', '.join(sorted(by_lower.values()))}" if by_lower else ""


def refuse(config: Any, wrong: Any, name: str, why: str) -> None:
  """Raises UserError about a field of a configuration if its value is `wrong`."""
  if wrong:
    raise UserError(f"{getattr(config, 'GIN_NAME', type(config).__name__)}.{name} = {getattr(config, name)!r} {why}")


def require(config: Any, what: str, holds: Callable[[Any], Any], *names: str) -> None:
  """Refuses fields that are not `what`; None may stand where it is the default."""
  for name in names:
    value, default = getattr(config, name), getattr(type(config), name, ...)
    try:
      wrong = not (default is None if value is None else holds(value))
    except TypeError:  # Of another kind, which cannot be compared.
      wrong = True
    refuse(config, wrong, name, f"must be {what}")
