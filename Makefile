# `make search hw=mobile_gpu` sets up and runs the main job, `make test` sets up and tests.
# Every variable given to make goes on to the command: `make search hw=v100 num_trials=50 constraints.latency_ms=1`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OVERRIDES = $(filter-out PYTHON=% VENV=%,$(MAKEOVERRIDES))

.PHONY: search train test coverage check format clean

search: $(VENV)/.ready
	$(BIN)/python -m nas.search $(OVERRIDES)

train: $(VENV)/.ready
	$(BIN)/python -m nas.train $(OVERRIDES)

test: check
	$(BIN)/python -m pytest -n auto

# A fifth slower, so not part of `make test`.
coverage: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.ready-dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.ready
