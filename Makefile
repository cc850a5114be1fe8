# The only commands that the README, CI and people use. `make help` lists them.
#
#   PYTHON=python3.12   interpreter to build .venv with (default: the first of python3 … with version 3.11 or later)
#   EXTRA=cpu|gpu       which ONNX runtime to install (default: gpu where an NVIDIA driver answers)
#   PORT=8000 DATA=…    port and data folder of `make run`
#   ROW=name SCALE=0.02 row of `make bench-quality` (default: all), and a share of its budgets to try it

SHELL := /bin/bash
VENV  ?= .venv
PORT  ?=
DATA  ?=
TESTS ?=
ROW   ?=
SCALE ?=

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
EXTRA  ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
PEERS := $(VENV)/.installed-bench
CODE  := contracts store models metrics engine workers service
COVER := $(foreach room,contracts engine store service,--cov=$(room))

.DEFAULT_GOAL := help
.PHONY: help setup setup-bench demo run test check bench bench-quality openapi clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install everything under constraints.txt (done once)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "latentserve needs Python 3.11 or later; found $$(python3 --version 2>&1 || echo none)." >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f $(VENV)/.installed-*
	@# The two ONNX runtimes overwrite each other's files, so the one not asked for has to go first.
	@[ $(EXTRA) = gpu ] && other=onnxruntime || other=onnxruntime-gpu; \
		$(BIN)/python -m pip uninstall --quiet --yes $$other 2>/dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA),dev]'
	@touch $@

setup-bench: $(PEERS)  ## Install the libraries that `make bench-quality` compares with (done once)

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA),dev,bench]'
	@touch $@

demo: setup  ## Start everything, train on handwritten digits, call every verb, stop (under 4 minutes)
	@$(BIN)/python -m service.demo

run: setup  ## Start everything and stay up (PORT=8000 DATA=~/.latentserve)
	@$(BIN)/latentserve up $(if $(PORT),--port $(PORT)) $(if $(DATA),--home $(DATA))

test: setup  ## Run the tests, with coverage (TESTS=tests/store for some of them, without)
	@$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile \
		$(if $(TESTS),$(TESTS),$(COVER) --cov-report=term:skip-covered --cov-fail-under=95)

check: setup  ## Lint, format, types, import rules, drift of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m service.openapi --check

bench: setup  ## Measure: densities on digits, speed of serving
	@for each in benchmarks/[a-z]*.py; do \
		name=$$(basename $$each .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-quality: setup-bench  ## Measure each family beside its peers, 10 minutes a row (ROW=name for one of recipes/)
	@$(BIN)/python -m benchmarks.quality $(ROW) $(if $(SCALE),--scale $(SCALE))

openapi: setup  ## Write openapi/openapi.json anew
	$(BIN)/python -m service.openapi

clean:  ## Remove .venv and what tools left behind
	rm -rf $(VENV) build dist demo-output .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
