"""The installed package: what a wheel holds, that it serves from any folder, and that the lock is one environment."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

PACKAGES = ("gpt4x", "tasks", "gin_configs")


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A copy of the source tree, for setuptools leaves build folders in it."""
  root, copy = request.config.rootpath, tmp_path_factory.mktemp("source")
  for name in (*PACKAGES, "tests"):
    shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml", "LICENSE"):
    shutil.copy(root / name, copy)
  return copy


def pip(*arguments: str | pathlib.Path) -> None:
  subprocess.run(
      [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments), "--no-deps",
       "--no-build-isolation", "--quiet", "--no-index"], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("wheel")
  pip("wheel", source, "--wheel-dir", folder)
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


def test_a_wheel_holds_the_packages_with_their_gin_files_and_nothing_else(source, wheel):
  expected = {path.relative_to(source).as_posix() for name in PACKAGES for path in (source / name).rglob("*")
              if path.suffix in (".py", ".gin")}
  assert any(name.startswith("tasks/") for name in expected)
  assert any(name.startswith("gin_configs/experiments/") for name in expected)
  names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
  assert names == {f"gpt4x/{name}" if name.startswith("tasks/") else name for name in expected}


def test_git_ignores_no_part_of_a_package(repository):
  if not (repository / ".git").exists():
    pytest.skip("not a clone")
  files = [str(path) for name in PACKAGES for path in (repository / name).rglob("*") if path.suffix in (".py", ".gin")]
  result = subprocess.run(["git", "check-ignore", *files], cwd=repository, capture_output=True, text=True)
  assert result.stdout == ""


def test_a_wheel_has_its_license_and_command(wheel):
  files = {name.partition(".dist-info/")[2]: name for name in zipfile.ZipFile(wheel).namelist()}
  read = lambda name: zipfile.ZipFile(wheel).read(files[name]).decode()
  assert "Apache License" in read("licenses/LICENSE")
  assert "gpt4x = gpt4x.cli:main" in read("entry_points.txt")
  extras = set(re.findall("^Provides-Extra: (.+)$", read("METADATA"), re.MULTILINE))
  assert extras == {"test", "huggingface", "tpu", "cuda", "t5x"}


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


@pytest.mark.parametrize("files", USERS.values(), ids=USERS)
def test_a_users_tasks_and_ours_do_not_hide_each_other(installed, files, tmp_path):
  site, _, tasks = installed
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  assert elsewhere(LOAD, site, tmp_path) == ["mine", str(tasks / "local_text.py"), "True"]


def lock(root: pathlib.Path) -> dict[str, str]:
  lines = [line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
  pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
  assert all(pairs), "each line is NAME==VERSION: no ranges, no hosts"
  return {canonicalize_name(pair[1]): pair[2] for pair in pairs}


def test_the_lock_is_closed_and_all_of_it_is_needed(repository):
  """Every requirement, gpt4x's and those of what it requires, is on the lock at a version that satisfies it."""
  locked, seen, todo = lock(repository), set(), [Requirement("gpt4x[test]")]
  while todo:
    requirement = todo.pop()
    name = canonicalize_name(requirement.name)
    if name != "gpt4x":
      assert name in locked, f"{requirement} is not on the lock"
      assert requirement.specifier.contains(locked[name], prereleases=True), f"{requirement} is {locked[name]}"
      if importlib.metadata.version(name) != locked[name]:
        pytest.skip(f"this environment is not the locked one: {name} is {importlib.metadata.version(name)}")
    for extra in {"", *requirement.extras}:
      if (name, extra) not in seen:
        seen.add((name, extra))
        needed = map(Requirement, importlib.metadata.requires(name) or ())
        todo += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
  assert {name for name, _ in seen} - {"gpt4x"} == set(locked)


def test_there_is_one_tensorflow(repository):
  distributions = {"tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "intel-tensorflow", "tensorflow-gpu"}
  assert distributions & set(lock(repository)) == {"tensorflow"}


def test_t5x_is_pinned_to_commits():
  extra = [Requirement(r) for r in importlib.metadata.requires("gpt4x") if 'extra == "t5x"' in r]
  urls = {r.name: r.url for r in extra if r.url}
  assert {"t5x", "airio"} <= set(urls) and all(re.search("@[0-9a-f]{40}$", url) for url in urls.values())
  assert all(re.match("==", str(r.specifier)) for r in extra if not r.url)
