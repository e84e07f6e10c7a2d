"""Gin's state, put aside while another configuration is read."""

from collections.abc import Iterator
import contextlib

import gin


@contextlib.contextmanager
def put_aside() -> Iterator[None]:
  """Within it gin has no configuration yet; afterwards it has again what it had."""
  config = gin.config  # There is no public way to take a configuration out and put it back.
  # pylint: disable=protected-access
  kept = [(store, store.copy()) for store in (
      config._CONFIG, config._SINGLETONS, config._OPERATIVE_CONFIG, config._IMPORTS)]
  locked = config._CONFIG_IS_LOCKED
  with gin.config_scope(None):  # The scopes of a call around this one are none of the other's.
    gin.clear_config()
    try:
      yield
    finally:
      gin.clear_config()
      for store, content in kept:
        store.update(content)
      config._set_config_is_locked(locked)
