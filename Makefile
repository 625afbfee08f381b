SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# The index with the CPU build of torch, for a machine without a GPU; see requirements/install.
TORCH_INDEX ?=
TOPOLOGY ?= provision/digits-ring4.yaml
RUN_ARGS ?=

BIN := $(VENV)/bin
FLAREMESH := $(BIN)/flaremesh
READY := $(VENV)/.ready

##@ Start

.PHONY: help
help: ## Explain every target
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(READY) ## Install the pinned packages into .venv (TORCH_INDEX=URL chooses torch's build)

$(READY): $(wildcard requirements/*) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flaremesh needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	TORCH_INDEX='$(TORCH_INDEX)' requirements/install $(BIN)/python lock.txt
	$(BIN)/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	$(BIN)/pip check --quiet
	@touch $@

.PHONY: vision
vision: ## Install torchvision and the torch it needs into .venv-vision, and test the MNIST problem there
	$(PYTHON) -m venv .venv-vision
	TORCH=vision TORCH_INDEX='$(TORCH_INDEX)' requirements/install .venv-vision/bin/python lock.txt
	.venv-vision/bin/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	.venv-vision/bin/pytest tests/unit/problems --quiet -k mnist

.PHONY: trainers
trainers: ## Install Lightning and Hugging Face's trainer into .venv-trainers, and test scripts of theirs there
	$(PYTHON) -m venv .venv-trainers
	TORCH_INDEX='$(TORCH_INDEX)' requirements/install .venv-trainers/bin/python lock.txt
	TORCH_INDEX='$(TORCH_INDEX)' requirements/install .venv-trainers/bin/python trainers.txt
	.venv-trainers/bin/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	.venv-trainers/bin/pytest tests/integration/test_script_kinds.py --quiet -k trainers

.PHONY: demo
demo: $(READY) ## Four sites on a ring train on unbalanced digits, over real NVFlare processes; plots at the end
	@trap '$(FLAREMESH) down $(TOPOLOGY)' EXIT; \
	$(FLAREMESH) plan $(TOPOLOGY); \
	$(FLAREMESH) up $(TOPOLOGY); \
	$(FLAREMESH) run $(TOPOLOGY) --report $(RUN_ARGS)

##@ Develop

BOUNDED := -m 'not full and not chaos'
.PHONY: test
test: export SKIPPED_TESTS := $(CURDIR)/build/skipped-tests
# where the environment forbids to keep bytecode, each of some thousand processes would compile the package
test: export PYTHONDONTWRITEBYTECODE :=
# the one test of chaos comes first because it is the longest: in the end, one worker would wait for it
test: lint $(READY) ## Lint, type-check and run all tests, those with real NVFlare processes included
	@mkdir -p $(dir $(SKIPPED_TESTS)) && rm -f $(SKIPPED_TESTS)
	@trap '$(BIN)/python tests/skipped.py $(SKIPPED_TESTS)' EXIT; set -x; \
	$(BIN)/pytest tests/unit tests/contracts tests/charts tests/monitoring --numprocesses 2 $(BOUNDED); \
	$(BIN)/pytest tests/chaos tests/integration tests/attacks --numprocesses 2 --dist loadfile \
	  --no-loadscope-reorder $(BOUNDED)

.PHONY: test-full
test-full: BOUNDED := -m 'not chaos'
test-full: test ## As test, with the tests that take long and are like others

CHAOS_SEED ?=
CHAOS_ARGS ?=
.PHONY: chaos
chaos: $(READY) ## Strike runs with 60 faults at random iterations, into build/chaos/ (CHAOS_SEED=N repeats them, CHAOS_ARGS='-k 3-' a part)
	CHAOS_SEED='$(CHAOS_SEED)' $(BIN)/pytest tests/chaos -m chaos $(CHAOS_ARGS)

.PHONY: test-nvflare-next
test-nvflare-next: ## Test in .venv-nvflare-next what flaremesh assumes of NVFlare against its newest pre-release
	$(PYTHON) -m venv .venv-nvflare-next
	TORCH_INDEX='$(TORCH_INDEX)' requirements/install .venv-nvflare-next/bin/python lock.txt
	.venv-nvflare-next/bin/pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	.venv-nvflare-next/bin/pip install --quiet --pre --upgrade nvflare
	.venv-nvflare-next/bin/pytest tests/contracts

.PHONY: charts
charts: $(READY) ## Write what the code knows already: the charts' values, schemas and READMEs, docs/metrics.md
	$(BIN)/python -m tools.chart_files
	$(BIN)/python -m tools.metrics_page

.PHONY: dashboards
dashboards: $(READY) ## Write the Grafana dashboards of the monitoring chart from tools/dashboards
	$(BIN)/python -m tools.dashboards

.PHONY: test-gpu
test-gpu: $(READY) ## Test what needs a GPU; says why where it is skipped
	$(BIN)/pytest tests/gpu

.PHONY: test-docker
test-docker: images ## Test the image and a mesh of containers, on this machine's Docker engine
	$(BIN)/pytest tests/images tests/docker

.PHONY: lint
lint: $(READY) ## Format check, linter, strict types, import layers
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Format and fix what the linter can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: bench
bench: $(READY) ## Measure the links beside the stock package, gloo and bare TLS, the export of metrics and checkpoints; writes build/bench/
	$(BIN)/python -m bench.links
	$(BIN)/python -m bench.export
	$(BIN)/python -m bench.checkpoints

.PHONY: bench-learning
bench-learning: $(READY) ## Simulate what each training algorithm needs to learn digits; writes build/bench/learning.md
	$(BIN)/python -m bench.learning

.PHONY: bench-privacy
bench-privacy: $(READY) ## Simulate what a privacy budget costs in accuracy on digits; writes build/bench/privacy.md
	$(BIN)/python -m bench.privacy

WAN_ARGS ?=
.PHONY: bench-wan
bench-wan: $(READY) ## Measure on wide-area networks of TUN devices, in 10 minutes, as root; writes build/bench/wan.md (WAN_ARGS=--all: everything)
	$(BIN)/python -m bench.wan $(WAN_ARGS)

.PHONY: lock
lock: $(READY) ## Pin the newest allowed packages in requirements/, with hashes (TORCH_INDEX=URL: those of torch's build there)
	$(BIN)/python -m tools.lock '$(TORCH_INDEX)'

##@ Images

VARIANT ?= cpu
REGISTRY ?=
# The base image; empty takes that of images/Dockerfile.
PYTHON_IMAGE ?=
# URL of the sources, for the images' label
SOURCE ?=

IMAGES = $(BIN)/python -m tools.images
BASE = $(if $(PYTHON_IMAGE),--python-image $(PYTHON_IMAGE))

.PHONY: wheels
wheels: $(READY) ## Gather in build/wheels what an image is made of (VARIANT=cpu, cuda or cli; TORCH_INDEX as above)
	$(IMAGES) wheels $(VARIANT) $(BASE) --torch-index '$(TORCH_INDEX)'

.PHONY: images
images: wheels ## Build an image without a network, and its SBOM (VARIANT, REGISTRY=prefix, PYTHON_IMAGE=base)
	$(IMAGES) build $(VARIANT) $(BASE) --registry '$(REGISTRY)' --source '$(SOURCE)'

.PHONY: pin-images
pin-images: $(READY) ## Write the digest that the base image has in its registry now into images/, to be released with it
	$(IMAGES) pin

##@ Deploy

.PHONY: provision
provision: $(READY) ## Make the startup kits of a mesh: make provision TOPOLOGY=file.yaml
	$(FLAREMESH) provision $(TOPOLOGY)

# Where the mesh runs: local, docker or kubernetes; and further options such as --port
TARGET ?= local
MONITOR_ARGS ?=

.PHONY: monitor
monitor: $(READY) ## Open the dashboards of the mesh that is up (TOPOLOGY, TARGET), until Ctrl-C
	$(FLAREMESH) monitor $(TOPOLOGY) --target $(TARGET) $(MONITOR_ARGS)

##@ Cluster

# A cluster on this machine; KIND_NODE_IMAGE chooses its Kubernetes version.
KIND_NODE_IMAGE ?=
KIND_CLUSTER := flaremesh
IMAGE ?= flaremesh:$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' src/flaremesh/__init__.py)
KIND_KUBECONFIG := $(CURDIR)/build/kind/kubeconfig

.PHONY: kind
kind: $(READY) ## Make a Kubernetes cluster of two nodes with kind, and load the image into it
	@mkdir -p $(dir $(KIND_KUBECONFIG))
	@kind get clusters | grep --quiet --line-regexp $(KIND_CLUSTER) || \
	  kind create cluster --config deploy/kind/cluster.yaml --kubeconfig $(KIND_KUBECONFIG) --wait 120s \
	  $(if $(KIND_NODE_IMAGE),--image $(KIND_NODE_IMAGE))
	@kind get kubeconfig --name $(KIND_CLUSTER) > $(KIND_KUBECONFIG)
	kind load docker-image $(IMAGE) --name $(KIND_CLUSTER) --nodes $(KIND_CLUSTER)-worker
	@echo "export KUBECONFIG=$(KIND_KUBECONFIG)"

.PHONY: e2e
e2e: images kind ## Test a mesh on the cluster of `make kind`, from installation to uninstallation
	KUBECONFIG=$(KIND_KUBECONFIG) $(BIN)/pytest tests/e2e --ignore tests/e2e/monitoring

MONITORING_IMAGES = \
  $(shell sed -n 's/^PROMETHEUS_IMAGE = "\(.*\)"/\1/p' src/flaremesh/provision/monitoring_values.py) \
  quay.io/prometheus-operator/prometheus-operator:v0.85.0 \
  quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0

.PHONY: e2e-monitoring
e2e-monitoring: images kind ## Test on that cluster that a mesh is watched: scraping, rules, alerts, panels
	kind load docker-image $(MONITORING_IMAGES) --name $(KIND_CLUSTER) --nodes $(KIND_CLUSTER)-worker
	KUBECONFIG=$(KIND_KUBECONFIG) $(BIN)/pytest tests/e2e/monitoring

.PHONY: kind-down
kind-down: ## Delete the cluster of `make kind`
	kind delete cluster --name $(KIND_CLUSTER)

##@ Release

.PHONY: release-check
release-check: $(READY) ## Say what is still to do before the version can be released
	$(BIN)/python -m tools.release

.PHONY: clean
clean: ## Delete what the targets made, kits and private keys included; keeps .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
