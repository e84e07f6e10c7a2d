"""A store for the tests of this folder, which are skipped where its emulator is not installed."""

import pytest

from tests.storage import emulators


@pytest.fixture(scope="module", params=emulators.STORES, name="store")
def _store(request) -> str:
  """The scheme of a store that answers, with a bucket in it."""
  if name := emulators.missing(request.param):
    pytest.skip(f"{name} is not installed: pip install 'gpt4x[test]'")
  with emulators.running(request.param) as environment, pytest.MonkeyPatch.context() as patch:
    for name, value in environment.items():
      patch.setenv(name, value)
    emulators.make_bucket(request.param)
    yield request.param


@pytest.fixture
def place(store, request):
  """A place in the bucket for one test alone."""
  from gpt4x import storage
  return storage.path(f"{store}://bucket/{request.node.name.partition('[')[0]}")
