# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := operator,scorer,sklearn,pytorch,onnx,keras,local,dev
JOBS ?= 2

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torchvision goes in without its dependencies: its wheel asks for the CUDA build of torch, and runs on the CPU build
# with model_scorer.torchvision_ops.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: say make PYTHON=python3.12, for example" >&2; exit 1; }
	@echo "Building $(VENV) (a few minutes the first time, packages are cached) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@grep '^torch==' constraints.txt | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
	@grep '^torchvision==' constraints.txt | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

.PHONY: venv
venv: $(STAMP) ## Build the environment in .venv

.PHONY: demo
demo: $(STAMP) ## From YAML to an HTTPS answer on this machine (ONCE=1: check everything, then stop)
	@$(BIN)/python deploy/local/demo.py $(if $(ONCE),--once)

.PHONY: test
test: $(STAMP) ## All tests that need no cloud
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

.PHONY: lint
lint: $(STAMP) ## Formatting, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: lock
lock: $(STAMP) ## Write constraints.txt from what .venv holds
	@$(BIN)/python -m pip list --format freeze --exclude-editable --exclude pip --exclude setuptools | sed "s|+cpu$$||" > constraints.txt

.PHONY: clean
clean: ## Remove .venv and everything built
	rm -rf $(VENV) .local-cluster build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
