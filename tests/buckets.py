"""Buckets of emulated object stores, on this machine's loopback."""

from collections.abc import Callable, Iterator
import contextlib
import uuid

import pytest

from tests.storage import emulators


@pytest.fixture(scope="module")
def stores() -> Iterator[Callable[[str], None]]:
  """Starts the emulator of a scheme when it is first asked for; it is a module's own."""
  with contextlib.ExitStack() as running, pytest.MonkeyPatch.context() as patch:
    started = set[str]()

    def start(scheme: str) -> None:
      if name := emulators.missing(scheme):
        pytest.skip(f"{name} is not installed: pip install 'gpt4x[test]'")
      if scheme not in started:
        for name, value in running.enter_context(emulators.running(scheme)).items():
          patch.setenv(name, value)
        started.add(scheme)

    yield start


@pytest.fixture(params=["gs", "s3"])
def bucket(request, stores) -> str:
  """The URL of a new bucket, of each kind of store."""
  return new_bucket(request.param, stores)


@pytest.fixture
def gs(stores) -> str:
  """The URL of a new bucket, for what does not depend on the kind of store."""
  return new_bucket("gs", stores)


def new_bucket(scheme, stores) -> str:
  from gpt4x import storage
  stores(scheme)
  url = f"{scheme}://gpt4x-{uuid.uuid4().hex[:12]}"
  storage.path(f"{url}/any")
  storage.file_system(url).mkdir(url.partition("://")[2])
  return url


def put(url: str, content: bytes | str) -> None:
  from gpt4x import storage
  storage.write(storage.path(url), content if isinstance(content, bytes) else content.encode())


def names(url: str) -> set[str]:
  """What lies below a URL, by its name from there."""
  from gpt4x import storage
  prefix = url.partition("://")[2] + "/"
  return {name.removeprefix(prefix) for name in storage.file_system(url).find(prefix)}
