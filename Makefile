# make quickstart   trains, evaluates and samples a small model on text that is already on this machine
# make test         runs the tests
# make lint         checks style and types
# make bench        measures speed and memory beside the peers', in an environment of its own
# make t5x          adds upstream t5x to the environment
# make lock         writes the locks anew from setup.py and pyproject.toml; UPGRADE="NAME ..." takes newer versions
# make resolve      resolves each extra by itself on each Python, held to the locks
# make dist         makes the wheel and the source distribution, and checks both
# make clean        removes the environments, caches and the quickstart's run
#
# They need Python 3.11, 3.12 or 3.13 and a package index. PYTHON=python3.13 chooses the interpreter: an environment of
# another version is made again. Without it, an environment that is there stays as it is.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
RUN ?= runs/quickstart
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready
BENCH := .venv-bench
TOOLS := .venv-tools

.PHONY: quickstart test lint bench t5x lock resolve dist clean another-python

# Empty if an environment is of the Python that was asked for, or if none was.
ifneq ($(origin PYTHON),file)
ASKED := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' || echo none)
endif
changed = $(if $(ASKED),$(if $(filter $(ASKED),$(shell cat $(1) 2>/dev/null)),,another-python))

quickstart: $(READY)
	$(BIN)/gpt4x vocabulary --task=stdlib_bytes --size=4096 --output=stdlib_spm
	$(BIN)/gpt4x train --gin_file=experiments/quickstart.gin --model_dir=$(RUN)
	$(BIN)/gpt4x eval --model_dir=$(RUN)
	$(BIN)/gpt4x generate --model_dir=$(RUN) --prompt="def main(" --max_tokens=200 --temperature=0.9 --top_p=0.95 --seed=1
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

lock: $(TOOLS)/ready
	$(TOOLS)/bin/python -m benchmarks.locks $(if $(UPGRADE),--upgrade $(UPGRADE))

resolve: $(TOOLS)/ready
	$(TOOLS)/bin/python -m benchmarks.locks --check

# The wheel is built from the source distribution, so that nothing is missing in that.
dist: $(TOOLS)/ready
	rm -rf build dist
	$(TOOLS)/bin/python -m build
	$(TOOLS)/bin/python -m twine check --strict dist/*

clean:
	rm -rf .venv $(BENCH) $(TOOLS) .cache build dist *.egg-info $(RUN)

# An environment is made once, and again when what it is made from changes. Its stamp has its Python's version.
$(READY): requirements.lock setup.py $(call changed,$(READY))
	$(call make-environment,.venv)
	$(call stamp,.venv)

# The peers must do with the lock's packages, but for those that they name themselves.
$(BENCH)/ready: requirements.lock setup.py benchmarks/requirements.txt $(call changed,$(BENCH)/ready)
	$(call make-environment,$(BENCH))
	sed -n 's/^\([A-Za-z].*==\).*/^\1/p' benchmarks/requirements.txt | grep -v -i -f - requirements.lock > $(BENCH)/locked.txt
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -c $(BENCH)/locked.txt -r benchmarks/requirements.txt
	$(call stamp,$(BENCH))

# What packages are made and resolved with; nothing of it goes into a package.
$(TOOLS)/ready: $(call changed,$(TOOLS)/ready)
	$(call make-venv,$(TOOLS))
	$(TOOLS)/bin/python -m pip install --disable-pip-version-check 'build>=1.3,<2' 'packaging>=25' 'setuptools>=80' \
	  'twine>=6,<8' 'uv>=0.9,<1'
	$(call stamp,$(TOOLS))

define make-venv
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, and '$(PYTHON)' is not: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(1)
endef

define make-environment
	$(call make-venv,$(1))
	$(1)/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	$(1)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
endef

stamp = @$(1)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' > $(1)/ready
