"""Tries OpenAI's official clients, one major release after another, on everything that the server answers.

  python benchmarks/serving/conformance.py --python=ENVIRONMENT/bin/python --python=OTHER/bin/python

Each is a Python with `gpt4x[test]` and a release of `openai` of its own; without any, this one is tried. It exits with
1 if a test failed. Clients 2.54.0 (httpx) and 3.57.0 (httpx2) passed all 18 tests.
"""

import argparse
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = "tests/serving/test_openai_client.py"


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--python", action="append", default=[], metavar="FILE")
  failed = 0
  for python in parser.parse_args().python or [sys.executable]:
    version = subprocess.run([python, "-c", "import openai; print(openai.__version__)"], check=True,
                             capture_output=True, text=True).stdout.strip()
    print(f"openai {version}", flush=True)
    failed |= subprocess.run([python, "-m", "pytest", "-q", TESTS], cwd=ROOT).returncode != 0
  return failed


if __name__ == "__main__":
  sys.exit(main())
