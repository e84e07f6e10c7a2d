"""The errors a user can mend: one line that names the thing, the value and the remedy."""


class UserError(Exception):
  """A mistake in what the run was given; its message is one line, shown without a traceback (exit status 1)."""


class CommandError(UserError):
  """A mistake in the command itself: its flags, or the gin files and names they give (exit status 2)."""
