"""What every test stands on: simulated CPU devices, checked shapes, folders of their own, no network, no gin left."""

import gc
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

from tests.buckets import bucket, gs, stores  # noqa: F401  Fixtures.
from tests.offline import offline  # noqa: F401  A fixture that every test has.

# Compilation is most of the suite's time, and what it makes runs for milliseconds: plain code halves that time.
# Processes that tests start with flags of their own compile as a user's do.
_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true", "--xla_cpu_use_fusion_emitters=false")

_MAPS = 15_000  # Some tests' own programs take as many again.
_OWN_DATA_DIR = "GPT4X_TEST_OWNS_DATA_DIR"


def pytest_configure(config: pytest.Config) -> None:
  """Sets the environment before any test module imports JAX or TensorFlow; subprocesses inherit it."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = " ".join(_XLA_FLAGS)
  # Most of the time goes to compilation, and the command-line tests compile the same programs again and again. An
  # entry that a killed process left half-written does not decompress, and is compiled anew.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.rootpath / ".cache" / "jax")
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  os.environ["NO_GCE_CHECK"] = "true"  # google.auth, which reads this when it is imported, asks no metadata server.
  # JAX and TensorFlow leave millions of objects that live on; each full collection walks them all.
  gc.set_threshold(100_000, 20, 20)
  from tests import shapes
  shapes.check_shapes_of("gpt4x.models", "gpt4x.objectives", "gpt4x.inference")
  if not hasattr(config, "workerinput"):  # The workers of pytest-xdist share the directory of the one that starts them.
    os.environ["GPT4X_DATA_DIR"] = os.environ[_OWN_DATA_DIR] = tempfile.mkdtemp(prefix="gpt4x-tests-")
    os.environ["XDG_CONFIG_HOME"] = os.path.join(os.environ[_OWN_DATA_DIR], "config")


def pytest_unconfigure(config: pytest.Config) -> None:
  if not hasattr(config, "workerinput"):
    shutil.rmtree(os.environ.pop(_OWN_DATA_DIR), ignore_errors=True)


@pytest.fixture(autouse=True)
def no_gin():
  """Clears what a test bound in gin."""
  yield
  import gin
  gin.clear_config()


@pytest.fixture(autouse=True, scope="module")
def few_programs():
  """Drops compiled programs once there are many: each is a few memory maps, and Linux allows a process 65,530."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if "jax" in sys.modules and maps.exists() and len(maps.read_bytes().splitlines()) > _MAPS:
    import jax
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> pathlib.Path:
  """The root of the source tree."""
  return request.config.rootpath
