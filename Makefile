# `make demo` and `make test` are all that a newcomer needs. Every task creates .venv if it needs one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The constraints file for pip; by default the exact versions for development.
VERSIONS ?= requirements/lock.txt
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VERSIONS)
# Whole files in parallel, in the order that tests/conftest.py gives them.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 15
# More arguments for pytest, as in: make test TESTS='tests/cli -x'
TESTS ?=

.PHONY: help demo test quick fuzz lint format docs lock lowest newest fable clean

help:  ## Show these tasks
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/genlm  ## Install genlm into .venv and continue "Once upon a time"
	$(BIN)/genlm generate "Once upon a time" --model fable --seed 2

test: $(VENV)/genlm-dev  ## Run the tests
	$(PYTEST) $(TESTS)

quick: $(VENV)/genlm-dev  ## Run the tests except those that start Ray
	$(PYTEST) -m "not ray" $(TESTS)

FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 0
fuzz: $(VENV)/genlm-dev  ## Run damaged input through every interface for FUZZ_SECONDS
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

lint: $(VENV)/genlm-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/genlm-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/genlm-dev  ## Regenerate docs/commands.md and docs/strategies.md
	$(BIN)/python docs/write_commands.py
	$(BIN)/python docs/write_strategies.py

# uv resolves for every Python version and system at once, which pip cannot.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev pyproject.toml \
	--custom-compile-command "make lock"
lock: | $(VENV)/bin/python  ## Record today's newest versions in requirements/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade uv
	$(COMPILE) --upgrade --constraint requirements/held.txt --output-file requirements/lock.txt
	$(COMPILE) --upgrade --resolution lowest-direct --output-file requirements/lowest.txt

lowest:  ## Run the tests on the lowest versions that pyproject.toml allows
	$(MAKE) test VENV=.venv-lowest VERSIONS=requirements/lowest.txt

newest:  ## Run the tests on the newest releases
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest VERSIONS=/dev/null

CORPUS ?= corpus
fable: $(VENV)/genlm-dev  ## Train the bundled model again from CORPUS/train and CORPUS/valid
	sh training/fable.sh $(BIN)/genlm $(CORPUS)

clean:  ## Remove virtual environments and caches
	rm -rf .venv .venv-lowest .venv-newest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamp files: packages are reinstalled only when pyproject.toml or the recorded versions change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/genlm: pyproject.toml $(VERSIONS) | $(VENV)/bin/python
	@echo "Installing genlm into $(VENV). This takes a few minutes the first time because PyTorch is large."
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/genlm-dev: pyproject.toml $(VERSIONS) | $(VENV)/bin/python
	@echo "Installing genlm and its test tools into $(VENV). This takes a few minutes the first time because PyTorch is large."
	$(PIP_INSTALL) hatchling editables
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/genlm
