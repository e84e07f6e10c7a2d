"""The package: what its distributions hold, that it serves from any folder, and that the locks are one environment."""

import email
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
import pytest

from benchmarks import locks
import gpt4x
from gpt4x import cli
from tests import shown

PACKAGES = ("gpt4x", "tasks", "gin_configs")
SUFFIXES = ".py", ".gin", ".html", ".cc"  # The last are compiled where they are used.


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A copy of the source tree, for setuptools leaves build folders in it."""
  root, copy = request.config.rootpath, tmp_path_factory.mktemp("source")
  for path in tracked(root):
    (copy / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / path, copy / path)
  return copy


def tracked(root: pathlib.Path) -> list[str]:
  """The files that git keeps or would; without git, those of an unpacked source distribution."""
  if not (root / ".git").exists():
    listed = root / "gpt4x.egg-info" / "SOURCES.txt"
    return [name for name in listed.read_text().splitlines() if not name.startswith("gpt4x.egg-info")]
  result = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root,
                          capture_output=True, text=True, check=True)
  return [name for name in result.stdout.splitlines() if (root / name).exists()]


def pip(*arguments: str | pathlib.Path) -> None:
  subprocess.run(
      [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments), "--no-deps",
       "--no-build-isolation", "--quiet", "--no-index"], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def sdist(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("sdist")
  build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
  subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
  return next(folder.glob("gpt4x-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Made from the source distribution, as a package index's are."""
  folder = tmp_path_factory.mktemp("wheel")
  pip("wheel", sdist, "--wheel-dir", folder)
  return next(folder.glob("gpt4x-*.whl"))


# Where the gin files and the tasks of an installation are; `local_text` stands for any task.
WHERE = ("import gpt4x.configuration as c, gpt4x.tasks\n"
         "print(gpt4x.tasks.local_text.__file__)\n"
         "for name in ('experiments/stdlib_tiny.gin', 'runs/train.gin'): print(c.find(name))")
GIN_FILES = ["gin_configs/experiments/stdlib_tiny.gin", "gin_configs/runs/train.gin"]
# A user's own `tasks`, as any of three things, with the names of ours.
USERS = {
    "module": {"tasks.py": "print('mine')", "mine.gin": "import tasks"},
    "package": {"tasks/__init__.py": "", "tasks/local_text.py": "print('mine')", "mine.gin": "import tasks.local_text"},
    "folder": {"tasks/local_text.py": "print('mine')", "mine.gin": "import tasks.local_text"},
}
# As the command does it: the current folder comes last. Ours are registered before and after.
LOAD = ("import sys, seqio; sys.path.append('.')\n"
        "import gin; gin.parse_config_file('mine.gin')\n"
        "import gpt4x.tasks\n"
        "print(gpt4x.tasks.local_text.__file__, 'stdlib_bytes' in seqio.TaskRegistry.names())")


def elsewhere(program: str, site: pathlib.Path, folder: pathlib.Path) -> list[str]:
  """What a program prints in another folder, with an installation at `site` and none of this environment's."""
  start = f"import site, sys; sys.path.insert(0, {str(site)!r}); site.addsitedir(sys.path[0])\n"  # Reads .pth files.
  result = subprocess.run(
      [sys.executable, "-S", "-c", start + program], cwd=folder, capture_output=True, text=True,
      env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")})
  assert result.returncode == 0, result.stderr
  return result.stdout.split()


def test_a_source_distribution_holds_the_repository(sdist, repository):
  with tarfile.open(sdist) as archive:
    names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
  made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("gpt4x.egg-info/")}
  assert names - made == set(tracked(repository))


def test_a_wheel_holds_the_packages_with_their_gin_files_and_nothing_else(source, wheel):
  expected = {path.relative_to(source).as_posix() for name in PACKAGES for path in (source / name).rglob("*")
              if path.suffix in SUFFIXES}
  assert any(name.startswith("tasks/") for name in expected)
  assert any(name.startswith("gin_configs/experiments/") for name in expected)
  names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
  assert names == {f"gpt4x/{name}" if name.startswith("tasks/") else name for name in expected}


def test_git_ignores_no_part_of_a_package(repository):
  if not (repository / ".git").exists():
    pytest.skip("not a clone")
  files = [str(path) for name in PACKAGES for path in (repository / name).rglob("*") if path.suffix in SUFFIXES]
  result = subprocess.run(["git", "check-ignore", *files], cwd=repository, capture_output=True, text=True)
  assert result.stdout == ""


def test_a_wheel_has_its_license_command_and_description(wheel, source):
  files = {name.partition(".dist-info/")[2]: name for name in zipfile.ZipFile(wheel).namelist()}
  read = lambda name: zipfile.ZipFile(wheel).read(files[name]).decode()
  assert "Apache License" in read("licenses/LICENSE")
  assert "gpt4x = gpt4x.cli:main" in read("entry_points.txt")
  metadata = email.message_from_string(read("METADATA"))
  extras = set(metadata.get_all("Provides-Extra"))
  assert extras == {"test", "export", "huggingface", "knowledge", "gcs", "media", "prepare", "s3", "serve", "wandb",
                    "mlflow", "tpu", "cuda", "t5x"}
  assert metadata["Version"] == gpt4x.__version__ and f"## {gpt4x.__version__}" in (source / "CHANGELOG.md").read_text()
  # What `twine check --strict` asks for.
  assert metadata["Description-Content-Type"] == "text/markdown"
  assert metadata.get_payload().strip() == (source / "README.md").read_text().strip()


def test_a_wheel_s_pythons_are_those_of_the_locks_and_of_make(wheel, source):
  name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
  metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
  described = [one.rpartition(" ")[2] for one in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", one)]
  assert tuple(described) == locks.PYTHONS
  allowed = SpecifierSet(metadata["Requires-Python"])
  assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed] == described
  low, high = (version.replace(".", ", ") for version in (described[0], described[-1]))
  assert f"({low}) <= sys.version_info[:2] <= ({high})" in (source / "Makefile").read_text()


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, source, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
  """An installation, and where it has its packages and its tasks."""
  site = tmp_path_factory.mktemp("site")
  if request.param == "editable":
    pip("install", "--editable", source, "--target", site)
    return site, source, source / "tasks"
  pip("install", request.getfixturevalue("wheel"), "--target", site)
  return site, site, site / "gpt4x" / "tasks"


def test_an_installation_serves_its_gin_files_and_tasks_from_any_folder(installed, tmp_path):
  site, root, tasks = installed
  assert elsewhere(WHERE, site, tmp_path) == [str(tasks / "local_text.py"), *(str(root / name) for name in GIN_FILES)]


def test_a_wheel_s_command_runs_in_another_folder(wheel, tmp_path):
  pip("install", wheel, "--target", tmp_path / "site")
  command = [tmp_path / "site" / "bin" / "gpt4x", "--help"]
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
  assert result.returncode == 0 and "generate" in result.stdout and result.stderr == ""


@pytest.mark.parametrize("files", USERS.values(), ids=USERS)
def test_a_users_tasks_and_ours_do_not_hide_each_other(installed, files, tmp_path):
  site, _, tasks = installed
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  assert elsewhere(LOAD, site, tmp_path) == ["mine", str(tasks / "local_text.py"), "True"]


@pytest.mark.parametrize("path", [locks.LOCK, locks.EXTRAS_LOCK], ids=lambda path: path.name)
def test_a_lock_has_exact_versions(path):
  lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
  names = [line.partition("==")[0] for line in lines]
  assert names == sorted(set(names)) and len(names) > 50
  for line in lines:
    assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", line), f"{line}: no NAME==VERSION, or a range, or a host"


OWN = locks.extras()
REQUIRES = locks.by_name(json.loads(locks.REQUIRES_DIST.read_text()), locks.pins(locks.LOCK, locks.EXTRAS_LOCK))
LOCKED = {"test": [locks.LOCK]}  # Any other extra may go on to the second lock.


@pytest.mark.parametrize("python", locks.PYTHONS)
@pytest.mark.parametrize("extra", sorted(OWN.keys() - locks.UNLOCKED))
def test_an_extra_resolves_against_the_locks(extra, python):
  """Every requirement that it leads to is on a lock, at a version that satisfies it. `make resolve` asks the index."""
  locked = locks.pins(*LOCKED.get(extra, [locks.LOCK, locks.EXTRAS_LOCK]))
  for name, requirements in locks.closure([f"gpt4x[{extra}]", "gpt4x"], python, OWN, REQUIRES).items():
    assert name in locked, f"{requirements[0]} is not on the lock"
    assert name in REQUIRES, f"{name}=={locked[name]} is not in {locks.REQUIRES_DIST.name}: make lock"
    for requirement in requirements:
      assert requirement.specifier.contains(locked[name], prereleases=True), f"{requirement} is {locked[name]}"


def test_all_of_the_locks_is_needed():
  needed = lambda extras: {name for python in locks.PYTHONS for name in locks.closure(
      ["gpt4x", *(f"gpt4x[{extra}]" for extra in extras)], python, OWN, REQUIRES)}
  tests = needed(["test"])
  assert locks.pins(locks.LOCK).keys() == tests
  assert locks.pins(locks.EXTRAS_LOCK).keys() == needed(OWN.keys() - locks.UNLOCKED) - tests


def test_what_packages_require_is_what_is_on_file():
  """Of those that are installed at the locked version."""
  recorded = json.loads(locks.REQUIRES_DIST.read_text())
  installed = {canonicalize_name(one.name): one for one in importlib.metadata.distributions()}
  compared = 0
  for key, needed in recorded.items():
    name, extras, version = re.fullmatch(r"(.+)\[(.*)\]==(.+)", key).groups()
    if name in installed and installed[name].version == version:
      real = [text for text in installed[name].requires or () if locks.counts(text, set(extras.split(",")))]
      assert sorted(map(str, map(Requirement, real))) == sorted(map(str, map(Requirement, needed))), key
      compared += 1
  if locks.pins(locks.LOCK).items() <= {name: one.version for name, one in installed.items()}.items():
    assert compared >= len(locks.pins(locks.LOCK))


def test_no_package_was_generated_by_a_newer_protobuf():
  """Such does not import, and no metadata tells. Some packages carry a folder for each major version."""
  runtime = tuple(map(int, importlib.metadata.version("protobuf").split(".")))
  check = re.compile(r"ValidateProtobufRuntimeVersion\(\s*[\w.]+,\s*(\d+),\s*(\d+),\s*(\d+)")
  packages = {}
  for path in pathlib.Path(sysconfig.get_path("purelib")).rglob("*_pb2.py"):
    if found := check.search(path.read_text(errors="replace")):
      package = path.relative_to(sysconfig.get_path("purelib")).parts[0]
      packages.setdefault(package, set()).add(tuple(map(int, found.groups())))
  assert {"tensorflow", "tensorboard"} <= packages.keys()
  assert not {package: needed for package, needed in packages.items() if min(needed) > runtime}


def test_extras_to_come_are_not_offered():
  offered = {extra for extra in OWN if re.search(f'"{extra}": ', (locks.ROOT / "setup.py").read_text())}
  assert {"eval", "hub"} <= OWN.keys() - offered
  for page in shown.PAGES:
    named = set(re.findall(r"\.\[(\w+)\]", page.read_text()))
    assert named <= offered, page.name


def test_there_is_one_tensorflow():
  distributions = {"tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "intel-tensorflow", "tensorflow-gpu"}
  assert distributions & locks.pins(locks.LOCK, locks.EXTRAS_LOCK).keys() == {"tensorflow"}


def test_t5x_is_pinned_to_commits():
  extra = [Requirement(r) for r in importlib.metadata.requires("gpt4x") if 'extra == "t5x"' in r]
  urls = {r.name: r.url for r in extra if r.url}
  assert {"t5x", "airio"} <= set(urls) and all(re.search("@[0-9a-f]{40}$", url) for url in urls.values())
  assert all(re.match("==", str(r.specifier)) for r in extra if not r.url)


# What the `make test` that runs these tests would pass on to another make.
_OF_MAKE = {"PYTHON", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_makes_the_environment_again_for_another_python(source, tmp_path):
  shutil.copy(source / "Makefile", tmp_path)
  for name in ("requirements.lock", "setup.py"):
    (tmp_path / name).touch()
  (tmp_path / ".venv").mkdir()
  own = f"{sys.version_info.major}.{sys.version_info.minor}"

  def made(*arguments: str) -> bool:
    result = subprocess.run(["make", "--dry-run", "test", *arguments], cwd=tmp_path, capture_output=True, text=True,
                            env={name: value for name, value in os.environ.items() if name not in _OF_MAKE})
    assert result.returncode == 0, result.stderr
    return "-m venv --clear .venv" in result.stdout

  asked = f"PYTHON={sys.executable}"
  assert made() and made(asked)
  for stamp, again in ((own, False), ("3.10", True), ("", True)):
    (tmp_path / ".venv" / "ready").write_text(f"{stamp}\n")
    assert not made() and made(asked) == again and made("PYTHON=no-such-python")
  os.utime(tmp_path / ".venv" / "ready", (0, 0))
  assert made()


def test_the_container_is_built_from_what_its_context_holds(source, wheel, tmp_path):
  """Of the files that .dockerignore lets in, RUN's install makes the same wheel, and finds its constraints."""
  kept = [line[1:] for line in (source / ".dockerignore").read_text().splitlines() if line.startswith("!")]
  for name in kept:
    (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, tmp_path / name)
  pip("wheel", tmp_path, "--wheel-dir", tmp_path / "wheels")
  names = lambda path: sorted(zipfile.ZipFile(path).namelist())
  assert names(next((tmp_path / "wheels").glob("*.whl"))) == names(wheel)
  constraints = re.findall(r"--constraint=/tmp/gpt4x/(\S+)", (source / "Dockerfile").read_text())
  assert len(constraints) == 2 and set(constraints) <= set(kept)


def test_the_commands_of_containers_are_commands(repository):
  text = (repository / "docs" / "installing.md").read_text() + (repository / "Dockerfile").read_text()
  arguments = dict(re.findall(r'^ARG (\w+)="?(.*?)"?$', (repository / "Dockerfile").read_text(), re.MULTILINE))
  shown_arguments = re.findall(r"--build-arg[ =](\w+)=([\w.,]+)", text)
  assert {name for name, _ in shown_arguments} == arguments.keys() == {"PYTHON", "EXTRAS"}
  for name, value in [*arguments.items(), *shown_arguments]:
    assert value in locks.PYTHONS if name == "PYTHON" else set(filter(None, value.split(","))) <= OWN.keys()
  runs = re.findall(r"^docker run .* gpt4x(?::\w+)? (.+)$", text, re.MULTILINE)
  assert {cli._parse(shlex.split(run)).command for run in runs} == {"train", "eval"}
