"""Files of this machine and of object stores: paths, and what a bucket does unlike a file system.

A directory that a user names may be a URL, gs://bucket/path or s3://bucket/path. `path` makes of either an object with
pathlib's methods. In a bucket a file is replaced by one upload, which readers see whole or not at all; nothing is
appended to, and nothing is renamed in one step.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import importlib.util
import json
import logging
import os
import pathlib
import tempfile
from typing import Any, cast
import uuid
import zlib

from gpt4x.errors import one_line, UserError

_CHUNK = 1 << 24  # Bytes that are read at a time.
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # What fsspec needs for a scheme.
_EXTRAS = {"gs": "gcs", "s3": "s3"}
_CREDENTIALS = {
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is a URL, of a bucket in an object store."""
  return "://" in os.fspath(path)


def check(text: str) -> None:
  """Raises UserError for a URL of no store that is known here."""
  scheme, separator, rest = text.partition("://")
  if separator and scheme not in _PACKAGES:
    raise UserError(f"{text}: there is no storage {scheme}://: give a local path, gs://BUCKET/PATH or s3://BUCKET/PATH")
  if separator and not (rest[:1] != "/" and rest.partition("/")[2].strip("/")):
    raise UserError(f"{text} names no directory in a bucket: write {scheme}://BUCKET/PATH")


def path(text: str | os.PathLike) -> pathlib.Path:
  """A local path with `~` expanded, or that of an object in a bucket, an `epath.Path`; they have the same methods."""
  text = os.fspath(text)
  if not is_remote(text):
    return pathlib.Path(os.path.expanduser(text))
  check(text)
  scheme = text.partition("://")[0]
  if importlib.util.find_spec(_PACKAGES[scheme]) is None:
    raise UserError(f"{text} needs {_PACKAGES[scheme]}, which is not installed: pip install 'gpt4x[{_EXTRAS[scheme]}]'")
  _use_fsspec()
  from etils import epath
  return cast(pathlib.Path, epath.Path(text))


def check_file(path: pathlib.Path) -> None:
  """Raises UserError where a file would take the place of something else, such as a directory or /dev/null."""
  if not is_remote(path) and path.exists() and not path.is_file():
    raise UserError(f"{path} is there already and no regular file: name another")


def write(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file in one step: a process that dies meanwhile leaves the old file whole."""
  if is_remote(path):
    with _writing(path):
      file_system(path).pipe_file(str(path), content)
    return
  check_file(path)
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  temporary.write_bytes(content)
  temporary.replace(path)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A local file to write, by what writes local files only, which then takes its place whole."""
  if not is_remote(path):
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    yield unfinished
    unfinished.replace(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder, path.name)
    upload(pathlib.Path(folder, path.name), path)


def make_directory(path: pathlib.Path) -> None:
  """Makes a directory and those above it; a bucket has none, and is not made either."""
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)


def files_below(path: pathlib.Path) -> list[pathlib.Path]:
  """All files below a directory, in order."""
  if not is_remote(path):
    return sorted(pathlib.Path(folder, name) for folder, _, names in os.walk(path) for name in names)
  with errors(path):
    place = str(path).partition("://")[2]
    return [path / name.removeprefix(f"{place}/") for name in sorted(file_system(path).find(place))]


def size_and_crc(path: pathlib.Path) -> list[int]:
  """[size, CRC-32] of a file."""
  size = crc = 0
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
  return [size, crc]


def check_writable(path: pathlib.Path) -> None:
  """Raises UserError, before long work whose result is to lie there, if a place in a bucket cannot be written to."""
  probe = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
  write(probe, b"")
  with errors(probe):
    probe.unlink()


def upload(source: pathlib.Path, path: pathlib.Path) -> None:
  """Copies a local file, or all files below a local directory, to a bucket, each in one step."""
  for file in files_below(source) if source.is_dir() else [source]:
    target = path / file.relative_to(source) if file != source else path
    with _writing(target):
      file_system(path).put_file(str(file), str(target))


@contextlib.contextmanager
def local_copy(path: pathlib.Path, names: str = "*") -> Iterator[pathlib.Path]:
  """A directory for what reads local files only: the directory itself, or a copy of the files in a bucket.

  The copy has the files directly in it whose names fit the pattern, and is removed at the end.
  """
  if not is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    with errors(path):
      for file in file_system(path).glob(f"{path}/{names}"):
        file_system(path).get_file(file, f"{folder}/{file.rpartition('/')[2]}")
    yield pathlib.Path(folder)


def create_exclusively(path: pathlib.Path, content: bytes) -> bool:
  """Writes a file unless there is one; whether it did. Of several processes that try, one succeeds."""
  if is_remote(path):
    try:
      with _writing(path):
        file_system(path).pipe_file(str(path), content, mode="create")
    except FileExistsError:
      return read(path) == content  # Our own, whose confirmation was lost on the way.
    return True
  try:
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
  except FileExistsError:
    return False
  with open(file, "wb") as opened:
    opened.write(content)
  return True


def replace(path: pathlib.Path, expected: bytes, content: bytes) -> bool:
  """Replaces a file if it holds `expected`; whether it did. In a bucket no other process can come in between."""
  if not is_remote(path):
    if read(path) != expected:
      return False
    write(path, content)
    return True
  try:
    with errors(path):
      version = file_system(path).info(str(path))  # Read first: what is newer than it is not replaced.
      if file_system(path).cat_file(str(path)) != expected:
        return False
      _put_over(path, version, content)
  except (FileNotFoundError, FileExistsError):
    return read(path) == content  # As above.
  return True


def read(path: pathlib.Path) -> bytes | None:
  """The content of a file, or None if there is none."""
  try:
    return read_bytes(path)
  except FileNotFoundError:
    return None


def read_bytes(path: pathlib.Path) -> bytes:
  """The content of a file, in one request: an object that is opened may be replaced before it is read."""
  with errors(path):
    return file_system(path).cat_file(str(path)) if is_remote(path) else path.read_bytes()


def file_system(path: str | os.PathLike) -> Any:
  """The fsspec file system of a URL that `path` made a path of."""
  import fsspec
  return fsspec.filesystem(os.fspath(path).partition("://")[0])


@contextlib.contextmanager
def errors(path: str | os.PathLike) -> Iterator[None]:
  """Within it, what a store says of credentials, rights and its network becomes a UserError that names the URL.

  A missing object stays a FileNotFoundError, and errors of local files stay what they are.
  """
  try:
    yield
  except Exception as error:
    if not is_remote(path) or isinstance(error, UserError) or (message := explain(error, path)) is None:
      raise
    raise UserError(message) from error


def explain(error: BaseException, path: str | os.PathLike) -> str | None:
  """One line, with the remedy, about an error of a store; None if it is no such error."""
  scheme = os.fspath(path).partition("://")[0]
  names = {kind.__name__ for kind in type(error).__mro__}
  code = str(getattr(error, "code", ""))
  if names & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError",
              "TokenRetrievalError", "ProfileNotFound"} or code == "401" or "Anonymous caller" in str(error):
    return f"{path}: there are no valid credentials ({one_line(error, 120)}): {_CREDENTIALS[scheme]}"
  if "PermissionError" in names or code == "403" or str(error).startswith("Forbidden"):
    return f"{path}: permission denied ({one_line(error, 120)}): let this account read and write objects there, or use"\
           " another"
  if names & {"ClientConnectionError", "EndpointConnectionError", "HTTPClientError", "ConnectionError",
              "TransportError", "TimeoutError"}:
    return f"{path} cannot be reached ({one_line(error, 120)}): check the network, then run the command again"
  if isinstance(error, (FileNotFoundError, FileExistsError)):
    return None
  if isinstance(error, OSError) or names & {"HttpError", "BotoCoreError", "ClientError"}:
    return f"{path}: the store refuses ({one_line(error, 120)}): mend that, then run the command again"
  return None


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
  """As `errors`; besides, what is not found where something is written is the bucket."""
  try:
    with errors(path):
      yield
  except FileNotFoundError as error:
    scheme, _, rest = str(path).partition("://")
    raise UserError(f"{path} cannot be written: there is no bucket {scheme}://{rest.split('/')[0]}, or this account may"
                    " not see it: make it first, or correct the URL") from error


def _put_over(path: pathlib.Path, version: Mapping[str, Any], content: bytes) -> None:
  """Writes over this version of an object; raises FileExistsError if there is another by now."""
  files = file_system(path)
  bucket, _, key = str(path).partition("://")[2].partition("/")
  try:
    if str(path).startswith("s3:"):
      files.pipe_file(str(path), content, IfMatch=version["ETag"])
    else:  # gcsfs has no method with this condition.
      head = b"--==\nContent-Type: application/json\n\n%s\n--==\nContent-Type: application/octet-stream\n\n"
      files.call("POST", f"{files._location}/upload/storage/v1/b/{bucket}/o", uploadType="multipart",  # pylint: disable=protected-access
                 ifGenerationMatch=version["generation"], headers={"Content-Type": 'multipart/related; boundary="=="'},
                 data=head % json.dumps({"name": key}).encode() + content + b"\n--==--")
  except Exception as error:
    if _is_precondition(error):
      raise FileExistsError(str(path)) from error
    raise


def _is_precondition(error: BaseException) -> bool:
  """Whether a store has refused a write since its condition does not hold."""
  response = getattr(error.__cause__, "response", None) or {}
  return str(getattr(error, "code", "")) == "412" or response.get("Error", {}).get("Code") in (
      "PreconditionFailed", "ConditionalRequestConflict")


@functools.cache
def _use_fsspec() -> None:
  """Lets etils.epath, and with it Orbax, read and write buckets by fsspec, whether or not TensorFlow is installed.

  Once in every process: the variables of the environment that it sets go on to processes that are started from here.
  """
  from etils.epath import gpath
  import fsspec
  os.environ["EPATH_USE_TF"] = "false"
  gpath._is_tf_installed.cache_clear()  # Which has asked for the variable, perhaps. pylint: disable=protected-access
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # It asks a second service about each bucket.
  for logger in ("gcsfs", "google.auth"):  # They print what they also raise, the first with a traceback.
    logging.getLogger(logger).setLevel(logging.CRITICAL)
  for name in ("gs", "gcs", "s3"):  # Another process may write there: listings are never kept.
    fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
