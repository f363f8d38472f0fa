# make demo, make test: each makes .venv if it is missing, installs what it needs, and runs.
# PYTHON=python3.13 chooses the interpreter, VENV=.venv-313 the folder, JOBS=4 the test processes.

VENV ?= .venv
JOBS ?= 2
# Those that need neither another library nor data.
QUESTIONS ?= import_time frozen_steps small_maps sweep load_weights scaling
BIN := $(VENV)/bin
# A file's tests share what was compiled for it; the files in the order of tests/conftest.py, the long ones first.
TOGETHER := -n $(JOBS) --dist loadfile --no-loadscope-reorder
export PYTHON VENV

.PHONY: demo test test-all lint format bench accelerators clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## draw cats and dogs, train on them, show what was learned
	@$(BIN)/jaxclf demo

test: $(VENV)/.installed-test  ## the tests and the doctests
	$(BIN)/python -m pytest $(TOGETHER)

test-all: $(VENV)/.installed-test  ## the slow ones too, with new examples, compiled as users have it
	$(BIN)/python -m pytest $(TOGETHER) --thorough -m "slow or not slow"

lint: $(VENV)/.installed-test  ## ruff (lint, format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench  ## the benchmarks that need no peer
	for question in $(QUESTIONS); do $(BIN)/python benchmarks/run.py $$question || exit 1; done

accelerators:  ## an environment that compiles for H100 and TPU, about 7 GB, and what our steps cost there
	@VENV=.venv-accelerators bash .ci/venv ".[test]"
	.venv-accelerators/bin/python -m pip install -q "jax[tpu]" "jax[cuda12]"
	.venv-accelerators/bin/python -m pytest -m slow tests/test_accelerators.py
	.venv-accelerators/bin/python benchmarks/run.py accelerators

$(VENV)/.installed: pyproject.toml .ci/venv
	@bash .ci/venv .
	@touch $@

$(VENV)/.installed-%: pyproject.toml .ci/venv
	@bash .ci/venv ".[$*]"
	@touch $@

clean:  ## remove the environment and the caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
