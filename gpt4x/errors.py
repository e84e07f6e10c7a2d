"""The errors a user can mend: one line that names the thing, the value and the remedy."""

from collections.abc import Iterable


class UserError(Exception):
  """A mistake in what the run was given; its message is one line, shown without a traceback (exit status 1)."""


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
