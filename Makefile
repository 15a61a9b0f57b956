# One word for each task. `make demo` and `make test` are all that a newcomer needs: each makes .venv itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test quick lint format docs fable clean

help:  ## Show these tasks
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/genlm  ## Install genlm into .venv and continue "Once upon a time"
	$(BIN)/genlm generate "Once upon a time" --model fable --seed 2

test: $(VENV)/genlm-dev  ## Run the tests
	$(BIN)/python -m pytest

quick: $(VENV)/genlm-dev  ## Run the tests but those that start a Ray
	$(BIN)/python -m pytest -m "not ray"

lint: $(VENV)/genlm-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/genlm-dev  ## Put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/genlm-dev  ## Write docs/commands.md and docs/strategies.md anew from the code
	$(BIN)/python docs/write_commands.py
	$(BIN)/python docs/write_strategies.py

CORPUS ?= corpus
fable: $(VENV)/genlm-dev  ## Train the bundled model anew from CORPUS/train and CORPUS/valid
	sh training/fable.sh $(BIN)/genlm $(CORPUS)

clean:  ## Remove .venv and caches
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: what is installed is installed again only when pyproject.toml changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/genlm: pyproject.toml | $(VENV)/bin/python
	@echo "Installing genlm into $(VENV): some minutes the first time, for PyTorch is large."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/genlm-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing genlm and its test tools into $(VENV): some minutes the first time, for PyTorch is large."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/genlm
