# make quickstart   trains, evaluates and samples a small model on text that is already on this machine
# make test         runs the tests
# make t5x          adds upstream t5x to the environment
# make clean        removes the environment, caches and the quickstart's run
#
# They need Python 3.11 or later and a package index; PYTHON=... chooses another interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN ?= runs/quickstart
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready

.PHONY: quickstart test t5x clean

quickstart: $(READY)
	$(BIN)/gpt4x train --gin_file=experiments/stdlib_tiny.gin --model_dir=$(RUN)
	$(BIN)/gpt4x eval --model_dir=$(RUN)
	$(BIN)/gpt4x generate --model_dir=$(RUN) --prompt="def main(" --max_tokens=300 --temperature=0.8
	$(BIN)/gpt4x report --model_dir=$(RUN)

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile $(TESTS)

# The list stands in setup.py, as the extra `t5x`, with the reason for --no-deps.
t5x: $(READY)
	$(BIN)/python -c 'from importlib.metadata import requires; \
	  print(*(r.split(";")[0] for r in requires("gpt4x") if "\"t5x\"" in r), sep="\n")' > .venv/t5x.txt
	$(BIN)/python -m pip install --no-deps -r .venv/t5x.txt

clean:
	rm -rf .venv .cache build *.egg-info $(RUN)

# The environment is made once, and again when the lock changes.
$(READY): requirements.lock setup.py
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)
