"""Writes the locks anew, or tries each extra against them: `make lock` and `make resolve`.

`requirements.lock` is the environment that the tests pass in, and `requirements-extras.lock` what the other extras add
to it, those of parts to come too (`planned-extras` in pyproject.toml). Both keep the versions that they have where
these still fit. What each locked package requires goes into `tests/fixtures/requires_dist.json`, so that a test
without a network can follow every requirement.
"""

import argparse
import json
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile
import tomllib
from unittest import mock

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import setuptools

ROOT = pathlib.Path(__file__).parents[1]
LOCK, EXTRAS_LOCK = ROOT / "requirements.lock", ROOT / "requirements-extras.lock"
REQUIRES_DIST = ROOT / "tests" / "fixtures" / "requires_dist.json"
PYTHONS = ("3.11", "3.12", "3.13")
UNLOCKED = {"t5x"}  # Has a list of its own, which no resolver can reconcile with the rest; see setup.py.


def extras() -> dict[str, list[str]]:
  """What gpt4x requires by itself ("") and with each extra, those of parts to come included."""
  with mock.patch.object(setuptools, "setup") as setup:
    runpy.run_path(str(ROOT / "setup.py"))
  planned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gpt4x"]["planned-extras"]
  described = setup.call_args.kwargs
  return {"": described["install_requires"], **described["extras_require"], **planned}


def environment(python: str, extra: str = "") -> dict[str, str]:
  """The markers of a Linux machine."""
  return {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": extra,
          "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64",
          "implementation_name": "cpython", "platform_python_implementation": "CPython"}


def pins(*files: pathlib.Path) -> dict[str, str]:
  lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
  return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def closure(roots: list[str], python: str, own: dict[str, list[str]], requires: dict[str, list[str]]) -> dict:
  """All requirements that the roots lead to, by the package's name, on one Python."""
  found, seen, todo = {}, set(), [(root, "") for root in roots]
  while todo:
    text, of_extra = todo.pop()
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate(environment(python, of_extra)):
      continue
    name = canonicalize_name(requirement.name)
    for extra in {"", *requirement.extras}:
      if name == "gpt4x":
        needed = own[extra]
      else:
        found.setdefault(name, []).append(requirement)
        needed = requires.get(name, [])
      if (name, extra) not in seen:
        seen.add((name, extra))
        todo += [(one, extra) for one in needed]
  return found


def resolve(requirements: list[str], python: str, *flags: str, constraints: tuple[pathlib.Path, ...] = (),
            preferred: str = "") -> dict[str, str]:
  """What the resolver makes of them on one Python, from what the package index has."""
  with tempfile.TemporaryDirectory() as folder:
    wanted, output = pathlib.Path(folder, "wanted.in"), pathlib.Path(folder, "resolved.txt")
    wanted.write_text("\n".join(requirements) + "\n")
    output.write_text(preferred)
    result = subprocess.run(
        [pathlib.Path(sys.executable).parent / "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header",
         "--no-emit-index-url", "--no-emit-find-links", "--python-platform=x86_64-manylinux_2_31",
         f"--python-version={python}", *(f"--constraints={one}" for one in constraints), *flags, wanted,
         f"--output-file={output}"], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
      raise SystemExit(f"Python {python}: {result.stderr}")
    return pins(output)


def of(names: list[str]) -> list[str]:
  """The requirements of extras, with those that are named among them by gpt4x[...] in full."""
  own = extras()
  gathered = {text for name in names for text in own[name]}
  return sorted({text for one in gathered for text in
                 (of(sorted(Requirement(one).extras)) if Requirement(one).name == "gpt4x" else [one])})


def download(packages: list[str]) -> dict[str, list[str]]:
  """All that each NAME==VERSION requires, with any of its extras."""
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder, "report.json")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps",
                    f"--report={report}", *packages], check=True)
    found = [one["metadata"] for one in json.loads(report.read_text())["install"]]
  return {f"{canonicalize_name(one['name'])}=={one['version']}": one.get("requires_dist", []) for one in found}


def requires_dist(roots: list[str], locked: dict[str, str], known: dict[str, list[str]]) -> dict[str, list[str]]:
  """What each NAME[EXTRAS]==VERSION of the lock requires; downloads those that are not known yet."""
  own, downloaded = extras(), {}
  while True:  # For what is downloaded may ask for more packages, or for more extras of known ones.
    asked = {}
    for python in PYTHONS:
      for name, requirements in closure(roots, python, own, by_name(known, locked)).items():
        asked.setdefault(name, set()).update(*(one.extras for one in requirements))
    keys = {f"{name}[{','.join(sorted(asked[name]))}]=={locked[name]}": name for name in sorted(asked)}
    unknown = {key: f"{name}=={locked[name]}" for key, name in keys.items() if key not in known}
    if not unknown:
      return {key: known[key] for key in keys}
    new = sorted(set(unknown.values()) - downloaded.keys())
    downloaded |= download(new) if new else {}
    known = {key: known[key] for key in keys if key in known}
    known |= {key: [text for text in downloaded[package] if counts(text, asked[keys[key]])]
              for key, package in unknown.items()}


def by_name(known: dict[str, list[str]], locked: dict[str, str]) -> dict[str, list[str]]:
  """What each package requires, of those that are known at the locked version."""
  parts = [(*re.fullmatch(r"(.+)\[.*\]==(.+)", key).groups(), needed) for key, needed in known.items()]
  return {name: needed for name, version, needed in parts if locked.get(name) == version}


def counts(text: str, asked: set[str]) -> bool:
  """Whether a requirement counts on any of the Pythons, with the extras that are asked for."""
  marker = Requirement(text).marker
  return not marker or any(marker.evaluate(environment(python, extra)) for python in PYTHONS for extra in {"", *asked})


def write(path: pathlib.Path, locked: dict[str, str]) -> None:
  comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
  path.write_text(comment + "".join(f"{name}=={version}\n" for name, version in sorted(locked.items())))


def lock(upgrade: list[str]) -> None:
  own = extras()
  everything = of([name for name in own if name not in UNLOCKED])
  preferred = LOCK.read_text() + EXTRAS_LOCK.read_text()
  flags, locked = [f"--upgrade-package={name}" for name in upgrade], {}
  for python in PYTHONS:  # The first one's versions are preferred on the next.
    resolved = resolve(everything, python, *flags, preferred=preferred)
    different = [name for name in locked.keys() & resolved.keys() if locked[name] != resolved[name]]
    if different:
      raise SystemExit(f"{', '.join(different)}: no version serves Python {python} and those before it")
    locked |= resolved
    preferred, flags = "".join(f"{name}=={version}\n" for name, version in locked.items()), []
  known = json.loads(REQUIRES_DIST.read_text()) if REQUIRES_DIST.exists() else {}
  known = requires_dist(everything, locked, known)
  tests = {name for python in PYTHONS for name in closure(["gpt4x[test]"], python, own, by_name(known, locked))}
  write(LOCK, {name: version for name, version in locked.items() if name in tests})
  write(EXTRAS_LOCK, {name: version for name, version in locked.items() if name not in tests})
  REQUIRES_DIST.write_text(json.dumps(known, indent=0) + "\n")


def check() -> None:
  """Resolves each extra by itself, held to the locks."""
  for extra in extras().keys() - UNLOCKED:
    for python in PYTHONS:
      found = resolve(of(["", extra]), python, constraints=(LOCK, EXTRAS_LOCK))
      print(f"{extra or 'gpt4x'}, Python {python}: {len(found)} packages", flush=True)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--check", action="store_true", help="write nothing; resolve each extra held to the locks")
  parser.add_argument("--upgrade", nargs="*", default=[], metavar="NAME", help="packages that may get newer versions")
  arguments = parser.parse_args()
  if arguments.check:
    check()
  else:
    lock(arguments.upgrade)
