"""What a store refuses is told in one line, which names the URL and the remedy."""

import importlib.util

import pytest

from gpt4x import cli, storage
from gpt4x.errors import UserError


@pytest.mark.parametrize("url, words", [
    ("ftp://host/run", "no storage ftp://: give a local path, gs://BUCKET/PATH or s3://BUCKET/PATH"),
    ("gs://", "names no directory in a bucket: write gs://BUCKET/PATH"),
    ("gs:///run", "names no directory in a bucket"), ("s3://bucket", "names no directory in a bucket"),
])
def test_a_url_of_no_store(url, words, capsys):
  with pytest.raises(UserError) as error:
    storage.path(url)
  assert url in str(error.value) and words in str(error.value)
  assert cli.main(["generate", f"--model_dir={url}", "--prompt=a"]) == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize("scheme, extra", [("gs", "gcs"), ("s3", "s3")])
def test_a_missing_extra(scheme, extra, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=rf"^{scheme}://bucket/run needs .*: pip install 'gpt4x\[{extra}\]'$"):
    storage.path(f"{scheme}://bucket/run")


def explained(error, url):
  with pytest.raises(UserError) as found, storage.errors(url):
    raise error
  assert str(found.value).startswith(url) and "\n" not in str(found.value)
  return str(found.value)


def test_google():
  retry = pytest.importorskip("gcsfs.retry")
  from google.auth.exceptions import DefaultCredentialsError, RefreshError
  url, login = "gs://bucket/run", "gcloud auth application-default login"
  for error in (DefaultCredentialsError("none"), RefreshError("expired"), retry.HttpError({"code": 401}),
                retry.HttpError({"code": 401, "message": "Anonymous caller does not have storage.objects.get access"})):
    assert login in explained(error, url)
  assert "permission denied" in explained(OSError("Forbidden: https://...\nno storage.objects.create access"), url)
  assert "cannot be reached" in explained(ConnectionRefusedError("connect"), url)
  assert "the store refuses" in explained(retry.HttpError({"code": 400, "message": "odd"}), url)


def test_amazon(monkeypatch):
  exceptions = pytest.importorskip("botocore.exceptions")
  url = "s3://bucket/run"
  assert "AWS_ACCESS_KEY_ID" in explained(exceptions.NoCredentialsError(), url)
  assert "AWS_PROFILE" in explained(exceptions.ProfileNotFound(profile="mine"), url)
  assert "permission denied" in explained(PermissionError("Access Denied"), url)
  assert "cannot be reached" in explained(exceptions.EndpointConnectionError(endpoint_url="http://nowhere"), url)
  assert "the store refuses" in explained(OSError(5, "Bad request"), url)


def test_nothing_is_explained_of_local_files_and_missing_objects():
  for error, place in ((PermissionError(13, "Permission denied"), "/run"), (FileNotFoundError("x"), "gs://bucket/run"),
                       (KeyError("defect"), "gs://bucket/run")):
    with pytest.raises(type(error)), storage.errors(place):
      raise error
