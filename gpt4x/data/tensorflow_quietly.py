"""Importing this imports TensorFlow without its greeting. What needs TensorFlow imports this first.

TensorFlow writes to standard error from C++ before it reads its log level
(github.com/tensorflow/tensorflow/issues/100442), and again when it looks for GPUs. No logger is changed.
"""

import contextlib
import os
import sys


@contextlib.contextmanager
def _silence():
  """Leads what is written to file descriptor 2, by whatever language, nowhere."""
  try:
    stderr = os.dup(2)
  except OSError:  # It is closed already.
    yield
    return
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(nowhere)


if "tensorflow" not in sys.modules:
  with _silence():
    import tensorflow
    tensorflow.config.list_physical_devices("GPU")
