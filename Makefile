# make demo   a fresh machine with Python 3.11 only: installs the runtime, takes the mask off a clip, says where it is
# make test   installs everything that the tests need, then runs them
# make lint   ruff and mypy
# make wheel  builds the source archive and the wheel into dist/

# The first Python that is 3.11 or 3.12 and can make a virtual environment. Another one: make demo PYTHON=/path/to/python
USABLE := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MANIFEST := pyproject.toml constraints.txt

.PHONY: demo test lint wheel

demo: $(VENV)/.runtime
	$(BIN)/unmask-rt models fetch
	$(BIN)/python -m unmask_rt.demo demo

test: $(VENV)/.everything
	$(BIN)/python -m pytest

lint: $(VENV)/.everything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

wheel: $(VENV)/.everything
	$(BIN)/python -m build

$(BIN)/python:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(USABLE)' 2>/dev/null; then \
	  echo "No usable Python: 3.11 or 3.12 with the modules venv and ensurepip is needed$(if $(PYTHON), and $(PYTHON) is not that)." >&2; \
	  echo "On Debian and Ubuntu: apt-get install python3.11-venv. Another Python: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(MANIFEST) | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.everything: $(MANIFEST) | $(BIN)/python
	$(PIP) --editable '.[dev,train,preview]'
	touch $@ $(VENV)/.runtime
