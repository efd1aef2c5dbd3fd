# `make` lists the commands. Each makes the virtual environment first where it is needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
STUDY  ?= sandbox
METHOD ?= seuf_ga
ENV    := $(if $(filter sandbox,$(STUDY)),base,$(STUDY))

export PATH := $(CURDIR)/$(BIN):$(PATH)
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help repro show audit test lint format viz lock clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

repro: $(READY) ## run a study and print its table (STUDY=sandbox, smoke, tofu, ...)
	@kedro dvc sync --env $(ENV)
	kedro dvc run --env $(ENV)
	@$(MAKE) --no-print-directory show STUDY=$(STUDY)

show: $(READY) ## print the table of a study that has run
	@kedro show --env $(ENV)

audit: $(READY) ## prove what a method of a study changed (METHOD=seuf_ga STUDY=sandbox)
	kedro audit $(METHOD) --env $(ENV)

test: $(READY) ## run the tests
	pytest -q -n 2

lint: $(READY) ## check style, types, imports, and that dvc.yaml fits the pipelines
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	kedro dvc sync --check

format: $(READY) ## format the code
	ruff check --fix .
	ruff format .

viz: $(READY) ## look at a study's pipeline in the browser
	kedro dvc viz --env $(ENV)

lock: $(READY) ## write the installed versions to requirements.lock
	@{ head -1 requirements.lock; pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.tmp
	@mv requirements.tmp requirements.lock

clean: ## remove the environment and what the studies made; DVC's cache stays
	rm -rf $(VENV) .viz build dist src/*.egg-info data/0* studies/*/data

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SEUF needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@
