"""A dict whose items are attributes too, as transformers gives its results."""

from typing import Any


class Attributes(dict[str, Any]):
  """What a call gives, by name: `found["loss"]` or `found.loss`."""

  def __getattr__(self, name: str) -> Any:
    try:
      return self[name]
    except KeyError:
      raise AttributeError(f"there is no {name} here, only {', '.join(self)}") from None
