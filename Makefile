# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := operator,scorer,azure,hf,signing,sklearn,pytorch,onnx,keras,local,dev
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
	@TEST_AZURITE=$(CURDIR)/$(AZURITE)/node_modules/.bin/azurite-blob $(BIN)/python -m pytest tests/model_scorer/fetch/test_fetch_from_azure.py tests/model_scorer/fetch/test_fetch_from_azure_ml.py tests/e2e/test_e2e_azure.py $(PYTEST_ARGS)

# Environments of their own, one a folder in .cache/venvs, for what does not go together with .venv: botocore (s3) wants
# python-dateutil below 3, the operator's Kubernetes client 3 or later; gcsfs (gcs) and s3fs each want an fsspec of their own
# month; KServe (clients) wants pandas below 3 and protobuf below 7; MLflow's server is heavy, and atheris of no use elsewhere.
VENVS := .cache/venvs
TEST_PACKAGES := 'pytest>=8.4' 'pytest-asyncio>=1.2' 'hypothesis>=6.150'
PACKAGES_s3 := -e '.[scorer,s3]' 'moto[server]>=5,<6' $(TEST_PACKAGES)
PACKAGES_gcs := -e '.[scorer,gcs]' gcp-storage-emulator 'requests>=2.32' $(TEST_PACKAGES)
PACKAGES_mlflow := 'mlflow>=3.10,<4'
PACKAGES_clients := 'kserve>=0.20,<0.22' 'azureml-inference-server-http>=1.5,<2'
PACKAGES_atheris := --only-binary atheris -c constraints.txt -e '.[scorer,images]' 'atheris>=3,<4'

$(VENVS)/%/.installed: pyproject.toml | $(BIN)/python
	@echo "Building $(@D) …"
	@test -x $(@D)/bin/python || $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES_$*)
	@touch $@

.PHONY: test-s3
test-s3: $(STAMP) $(VENVS)/s3/.installed ## Tests against an S3 server (moto)
	@TEST_S3=1 $(VENVS)/s3/bin/python -m pytest tests/model_scorer/fetch/test_fetch_from_s3.py $(PYTEST_ARGS)
	@TEST_S3_PYTHON=$(CURDIR)/$(VENVS)/s3/bin/python $(BIN)/python -m pytest tests/e2e/test_e2e_s3.py $(PYTEST_ARGS)

.PHONY: test-clients
test-clients: $(STAMP) $(VENVS)/clients/.installed ## Tests with KServe's client and beside Azure ML's inference server
	@TEST_CLIENTS_PYTHON=$(CURDIR)/$(VENVS)/clients/bin/python $(BIN)/python -m pytest tests/model_scorer/clients $(PYTEST_ARGS)

.PHONY: test-gcs
test-gcs: $(VENVS)/gcs/.installed ## Tests against an emulator of Google Cloud Storage
	@TEST_GCS=1 $(VENVS)/gcs/bin/python -m pytest tests/model_scorer/fetch/test_fetch_from_gcs.py $(PYTEST_ARGS)

.PHONY: test-mlflow
test-mlflow: $(STAMP) $(VENVS)/mlflow/.installed ## Tests against MLflow's own server
	@TEST_MLFLOW=$(CURDIR)/$(VENVS)/mlflow/bin/mlflow $(BIN)/python -m pytest tests/model_scorer/fetch/test_fetch_from_mlflow.py tests/e2e/test_e2e_registries.py $(PYTEST_ARGS)

.PHONY: bench-fetch
bench-fetch: $(STAMP) ## Throughput and memory of the fetcher beside curl's (needs curl and 3 GiB of disk)
	@$(BIN)/python bench/bench_fetch.py $(BENCH_ARGS)

.PHONY: fuzz
fuzz: $(STAMP) $(VENVS)/atheris/.installed ## 600,000 malformed requests and bodies: hypothesis, seeded noise, schemathesis, atheris
	@$(BIN)/python -m pytest -n $(JOBS) tests/model_scorer/fuzz --hypothesis-profile=long
	@$(BIN)/python tests/model_scorer/fuzz/openapi_fuzz.py
	@$(VENVS)/atheris/bin/python tests/model_scorer/fuzz/codecs_atheris.py 400000

.PHONY: bench-scorer
bench-scorer: $(STAMP) ## The scorer against every Python model server (needs wrk; about 25 min, BENCH_ARGS=--quick for less)
	@$(BIN)/python bench/bench_scorer.py $(BENCH_ARGS)

.PHONY: bench-resnet
bench-resnet: $(STAMP) ## ResNet-152 over HTTP against limits and peers (needs wrk; about 25 min, BENCH_ARGS=--quick for less)
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
	rm -rf $(VENV) .cache .local-cluster build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
