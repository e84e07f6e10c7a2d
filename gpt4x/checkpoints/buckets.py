"""Orbax in buckets: what it does in gs://, it does in s3:// as well.

Orbax knows Google's buckets: it writes a checkpoint in place, marks it as finished by a file, and hands TensorStore the
bucket and the path. TensorStore reads and writes S3 too, but Orbax would take such a URL for a path on this machine, so
the few functions in which it asks are told of both.
"""

import functools
import os
from typing import Any

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

_SCHEMES = ("gs://", "s3://")


@functools.cache
def _prepare_s3() -> None:
  kvstore_for_gcs, normalize_path = gcs_utils.get_kvstore_for_gcs, tensorstore_utils._normalize_path

  gcs_utils.is_gcs_path = lambda path: str(path).startswith(_SCHEMES)
  gcs_utils.get_kvstore_for_gcs = lambda path: _kvstore(path) if path.startswith("s3://") else kvstore_for_gcs(path)
  tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(_SCHEMES)
  tensorstore_utils._normalize_path = lambda path: normalize_path(path).replace("s3:/", "s3://")


def prepare(model_dir: str) -> None:
  """Lets Orbax read and write a bucket; changes nothing for others."""
  if model_dir.startswith("s3://"):
    _prepare_s3()


def _kvstore(path: str) -> dict[str, Any]:
  """TensorStore's name for a place in S3, or in what AWS_ENDPOINT_URL has instead."""
  bucket, _, key = path.removeprefix("s3://").partition("/")
  spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key}
  if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
    spec |= {"endpoint": endpoint, "aws_region": os.environ.get("AWS_REGION")
             or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
  if os.environ.get("AWS_ACCESS_KEY_ID"):  # Else it looks for files of profiles first, and prints that there are none.
    spec["aws_credentials"] = {"type": "environment"}
  return spec
