# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := operator,scorer,azure,signing,sklearn,pytorch,onnx,keras,local,dev
JOBS ?= 2
# The FAQ demo needs no deep-learning framework, and what it imports is compiled at first use: installing takes half a minute.
DEMO_STAMP := $(VENV)/.installed-demo
DEMO_EXTRAS := operator,scorer,sklearn,local
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: say make PYTHON=python3.12, for example" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV) …"
	@$(PIP) --no-compile -e '.[$(DEMO_EXTRAS)]'
	@touch $@

# torchvision goes in without its dependencies: its wheel asks for the CUDA build of torch, and runs on the CPU build
# with model_scorer.images.torchvision_ops.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing everything into $(VENV) (a few minutes the first time, packages are cached) …"
	@grep '^torch==' constraints.txt | xargs $(PIP)
	@grep '^torchvision==' constraints.txt | xargs $(PIP) --no-deps
	@$(PIP) -e '.[$(EXTRAS)]'
	@touch $@ $(DEMO_STAMP)

.PHONY: venv
venv: $(STAMP) ## Build the environment in .venv

.PHONY: demo
demo: $(if $(filter digits,$(EXAMPLE)),$(STAMP),$(DEMO_STAMP)) ## From YAML to an HTTPS answer on this machine (EXAMPLE=faq or digits; ONCE=1: check everything, then stop)
	@$(BIN)/python deploy/local/demo $(EXAMPLE) $(if $(ONCE),--once)

.PHONY: test
test: $(STAMP) ## All tests that need no cloud
	@command -v chromedriver >/dev/null || echo "Chromium is not installed: the try-it page's browser tests are left out (Debian: apt-get install chromium chromium-driver)"
	@command -v chromedriver >/dev/null || export SKIP_BROWSER_TESTS=1; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

# Azurite is Microsoft's emulator of Azure Storage; it comes from npm and stays in .cache.
AZURITE := .cache/azurite
$(AZURITE)/.installed:
	@command -v npm >/dev/null && node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' || { echo "test-azure runs Azurite, which needs Node.js 20 or newer and npm on the PATH (Debian: apt-get install nodejs npm)" >&2; exit 1; }
	@echo "Installing Azurite into $(AZURITE) …"
	@npm install --prefix $(AZURITE) --no-audit --no-fund --no-update-notifier --loglevel=error 'azurite@^3.35'
	@touch $@

.PHONY: test-azure
test-azure: $(STAMP) $(AZURITE)/.installed ## Tests against Azure Blob Storage's emulator (needs Node.js)
	@TEST_AZURITE=$(CURDIR)/$(AZURITE)/node_modules/.bin/azurite-blob $(BIN)/python -m pytest tests/model_scorer/fetch/test_fetch_from_azure.py tests/e2e/test_e2e_azure.py $(PYTEST_ARGS)

# An environment of its own: botocore wants python-dateutil below 3, the operator's Kubernetes client 3 or later.
S3_VENV := .venv-s3
$(S3_VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or say make PYTHON=…" >&2; exit 1; }
	@echo "Building $(S3_VENV) …"
	@test -x $(S3_VENV)/bin/python || $(PYTHON) -m venv $(S3_VENV)
	@$(S3_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[scorer,s3]' 'moto[server]>=5,<6' 'pytest>=8.4' 'pytest-asyncio>=1.2'
	@touch $@

.PHONY: test-s3
test-s3: $(STAMP) $(S3_VENV)/.installed ## Tests against an S3 server (moto)
	@TEST_S3=1 $(S3_VENV)/bin/python -m pytest tests/model_scorer/fetch/test_fetch_from_s3.py $(PYTEST_ARGS)
	@TEST_S3_PYTHON=$(CURDIR)/$(S3_VENV)/bin/python $(BIN)/python -m pytest tests/e2e/test_e2e_s3.py $(PYTEST_ARGS)

.PHONY: bench-fetch
bench-fetch: $(STAMP) ## Throughput and memory of the fetcher beside curl's (needs curl and 3 GiB of disk)
	@$(BIN)/python bench/bench_fetch.py $(BENCH_ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## 200,000 malformed requests to the scorer, and schemathesis on its OpenAPI document
	@$(BIN)/python -m pytest -n $(JOBS) tests/model_scorer/fuzz --hypothesis-profile=long
	@$(BIN)/python tests/model_scorer/fuzz/openapi_fuzz.py

.PHONY: bench-scorer
bench-scorer: $(STAMP) ## The scorer against every Python model server (needs wrk; about 1 h, BENCH_ARGS=--quick for less)
	@$(BIN)/python bench/bench_scorer.py $(BENCH_ARGS)

.PHONY: bench-resnet
bench-resnet: $(STAMP) ## ResNet-152 over HTTP against limits and peers (needs wrk; about 1 h, BENCH_ARGS=--quick for less)
	@$(BIN)/python bench/bench_resnet.py $(BENCH_ARGS)

.PHONY: bench-operator
bench-operator: $(STAMP) ## 1,000 ScoringModels against kubectl apply of their children
	@$(BIN)/python bench/bench_operator.py $(BENCH_ARGS)

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
	rm -rf $(VENV) $(S3_VENV) .cache .local-cluster build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
