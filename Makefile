# `make` lists the commands. Each makes the virtual environment first where it is needed: `repro`,
# `show` and `audit` with what a study needs (requirements.lock), the others with everything.

PYTHON    ?= python3
VENV      := .venv
BIN       := $(VENV)/bin
READY     := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
STUDY     ?= sandbox
METHOD    ?= seuf_ga
ENV       := $(if $(filter sandbox,$(STUDY)),base,$(STUDY))

export PATH := $(CURDIR)/$(BIN):$(PATH)
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help repro show audit base viz test test-all lint format lock clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

repro: $(READY) ## run a study and print its table (STUDY=sandbox, smoke, tofu, ...)
	@kedro dvc sync --env $(ENV)
	@kedro dvc run --env $(ENV)
	@kedro show --env $(ENV)

show: $(READY) ## print the table of a study that has run
	@kedro show --env $(ENV)

audit: $(READY) ## prove what a method of a study changed (METHOD=seuf_ga STUDY=sandbox)
	@kedro audit $(METHOD) --env $(ENV)

base: $(READY) ## make the sandbox's recorded base model anew
	@kedro dvc sync --env sandbox_base
	@kedro dvc run make_base_model --env sandbox_base
	@python .ci/record_base.py

viz: $(DEV_READY) ## look at a study's pipeline in the browser
	@kedro dvc viz --env $(ENV)

test: $(DEV_READY) ## run the tests, without those marked `slow`
	pytest -q -n 2

test-all: $(DEV_READY) ## run the slow tests too: several processes, the hub's studies, S3, kedro-viz, the wheel
	pytest -q -n 2 -m "not gpu and not network"

lint: $(DEV_READY) ## check style, types, imports, and that dvc.yaml fits the pipelines
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	kedro dvc sync --check

format: $(DEV_READY) ## format the code
	ruff check --fix .
	ruff format .

lock: $(DEV_READY) ## install what pyproject.toml newly asks for, and write both lock files
	@pip install -qq --editable '.[dev]'
	@python .ci/lock.py
	@touch $(READY) $(DEV_READY)

clean: ## remove the environment and what the studies made; DVC's cache stays
	rm -rf $(VENV) .viz build dist src/*.egg-info data/0[2-9]* studies/*/data/0[2-9]*

$(READY): requirements.lock pyproject.toml
$(DEV_READY): requirements-dev.lock requirements.lock pyproject.toml

$(READY) $(DEV_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SEUF needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $< into $(VENV)"
	@$(BIN)/python -m pip install -qq --requirement $<
	@$(BIN)/python -m pip install -qq --no-deps --editable .
	@touch $@
