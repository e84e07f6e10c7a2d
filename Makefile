# make quickstart   trains, evaluates and samples a small model on text that is already on this machine
# make test         runs the tests
# make lint         checks style and types
# make bench        measures speed and memory beside the peers', in an environment of its own
# make t5x          adds upstream t5x to the environment
# make clean        removes the environments, caches and the quickstart's run
#
# They need Python 3.11 or later and a package index; PYTHON=... chooses another interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN ?= runs/quickstart
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready
BENCH := .venv-bench

.PHONY: quickstart test lint bench t5x clean

quickstart: $(READY)
	$(BIN)/gpt4x train --gin_file=experiments/stdlib_tiny.gin --model_dir=$(RUN)
	$(BIN)/gpt4x eval --model_dir=$(RUN)
	$(BIN)/gpt4x generate --model_dir=$(RUN) --prompt="def main(" --max_tokens=300 --temperature=0.8
	$(BIN)/gpt4x report --model_dir=$(RUN)

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile $(TESTS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy

# GROUPS="train eval" measures these alone, ROUNDS=9 more rounds; see benchmarks/run.py.
bench: $(BENCH)/ready
	$(BENCH)/bin/python -m benchmarks.run $(GROUPS) $(if $(ROUNDS),--rounds=$(ROUNDS))

# The list stands in setup.py, as the extra `t5x`, with the reason for --no-deps.
t5x: $(READY)
	$(BIN)/python -c 'from importlib.metadata import requires; \
	  print(*(r.split(";")[0] for r in requires("gpt4x") if "\"t5x\"" in r), sep="\n")' > .venv/t5x.txt
	$(BIN)/python -m pip install --no-deps -r .venv/t5x.txt

clean:
	rm -rf .venv $(BENCH) .cache build *.egg-info $(RUN)

# An environment is made once, and again when what it is made from changes.
$(READY): requirements.lock setup.py
	$(call make-environment,.venv)
	touch $@

# The peers must do with the lock's packages, but for those that they name themselves.
$(BENCH)/ready: requirements.lock setup.py benchmarks/requirements.txt
	$(call make-environment,$(BENCH))
	sed -n 's/^\([A-Za-z].*==\).*/^\1/p' benchmarks/requirements.txt | grep -v -i -f - requirements.lock > $(BENCH)/locked.txt
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -c $(BENCH)/locked.txt -r benchmarks/requirements.txt
	touch $@

define make-environment
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(1)
	$(1)/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	$(1)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
endef
