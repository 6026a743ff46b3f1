# The contract: every target has one line of help here, and `make` prints them.
# Each step installs what it needs and says in one line what is missing when it can not go on.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKLOADS := workloads/contract:workloads/agent:workloads/server:workloads/trainer
CLUSTER := $(PYTHON) localcluster/cluster.py
IMAGES := $(PYTHON) localcluster/images.py
# A cluster of your own: make demo KUBECONFIG=~/.kube/config REGISTRY=registry.example.com/aifactory
KUBECONFIG ?=
REGISTRY ?=
NAMESPACE ?=

.PHONY: help
help: ## Print every target with one line of help
	@grep -hE '^[a-z][a-z-]*:.*?## ' $(MAKEFILE_LIST) | sort | awk -F ':.*?## ' '{printf "  %-16s %s\n", $$1, $$2}'

##  Everyday

.PHONY: demo
demo: venv ## From a clean clone to generated text: cluster, images, operator, one YAML, tokens (KUBECONFIG=... REGISTRY=... use your cluster and images)
	$(BIN)/python -m demo $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)") $(if $(REGISTRY),--registry "$(REGISTRY)")

.PHONY: demo-finetune
demo-finetune: venv ## A pretrained chat model tuned on conversations and rolled out, asked before and after (KUBECONFIG=... REGISTRY=...)
	$(BIN)/python -m demo.finetune $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)") $(if $(REGISTRY),--registry "$(REGISTRY)")

.PHONY: chat-model
chat-model: venv $(if $(KUBECONFIG),,images) ## A pretrained chat model, on a claim for examples/chat-model.yaml (NAMESPACE=...; KUBECONFIG=... REGISTRY=... for your cluster)
	$(BIN)/python -m demo.pretrained $@ $(if $(NAMESPACE),--namespace "$(NAMESPACE)") \
	  $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)") $(if $(REGISTRY),--registry "$(REGISTRY)")

.PHONY: embedding-model
embedding-model: venv $(if $(KUBECONFIG),,images) ## A pretrained embedding model, on a claim for examples/embedding-model.yaml (as chat-model)
	$(BIN)/python -m demo.pretrained $@ $(if $(NAMESPACE),--namespace "$(NAMESPACE)") \
	  $(if $(KUBECONFIG),--kubeconfig "$(KUBECONFIG)") $(if $(REGISTRY),--registry "$(REGISTRY)")

.PHONY: test
test: venv cluster images ## Everything CI runs: verify, unit, simulation, workloads, component, local cluster and cluster tests (JOBS=2 at a time)
	@$(BIN)/python -m tests.support.suites $(or $(JOBS),2)

.PHONY: verify
verify: venv ## Format, lint, types, layers, and generated files up to date (under a minute)
	$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	PYTHONPATH=operator:$(WORKLOADS) $(BIN)/lint-imports --no-cache
	PYTHONPATH=operator $(BIN)/python docs/generate.py --check

.PHONY: format
format: venv ## Format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: generate
generate: venv ## Write the generated files: CRDs, the chart's copies, reference pages
	PYTHONPATH=operator $(BIN)/python docs/generate.py

.PHONY: plugin
plugin: uv ## kubectl aifactory for pipx (wheel) and krew (archive, manifest), with checksums, in build/plugin (URL=... where they will lie)
	@rm -rf build/plugin
	@$(UV) build --quiet plugin --out-dir build/plugin
	@$(PYTHON) plugin/package.py build/plugin $(URL)

.PHONY: docs
docs: uv ## The pages as a site in build/site, every link checked, with llms.txt
	@$(UV) run --quiet --no-project --with-requirements docs/requirements.lock python docs/site.py
	@NO_MKDOCS_2_WARNING=1 $(UV) run --quiet --no-project --with-requirements docs/requirements.lock mkdocs build --strict -f docs/mkdocs.yml
	@echo "open build/site/index.html"

.PHONY: images-list
images-list: ## Every image that an installation pulls (VALUES=values.yaml; MANIFESTS="job.yaml pool.yaml" for theirs; DIGESTS=1 asks the registries)
	@$(MAKE) --no-print-directory venv >&2
	@$(BIN)/python charts/images.py $(addprefix --values=,$(VALUES)) $(if $(DIGESTS),--digests) $(MANIFESTS)

.PHONY: release
release: venv ## Charts, CRDs, plugin, image list, SBOMs, notes and checksums of what is committed, in build/release (SINCE=tag; URL=... where they will lie)
	@$(BIN)/python -m release pack $(if $(SINCE),--since "$(SINCE)") $(if $(URL),--url "$(URL)")

.PHONY: release-version
release-version: venv ## Write a version into every file that names it (VERSION=0.2.0)
	@$(BIN)/python -m release version "$(VERSION)"

.PHONY: lock
lock: uv ## Resolve the Python dependencies again and write the lock files
	$(UV) pip compile --quiet --universal --generate-hashes --no-annotate --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-annotate --no-header --group dev pyproject.toml -o requirements-dev.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header docs/requirements.in -o docs/requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header tests/browser/requirements.in -o tests/browser/requirements.lock

##  Tests

.PHONY: test-unit
test-unit: venv ## Planners, API, kube and engine layers, localcluster tools: no cluster needed
	$(BIN)/pytest tests/unit -q

.PHONY: test-workloads
test-workloads: ## Trainer, agent and Triton back ends with real PyTorch, Triton and S3
	@$(MAKE) --no-print-directory -C workloads test

.PHONY: test-sim
test-sim: venv ## The real planners and engine in a simulated cluster under faults (AIFACTORY_SIM_STEPS for more)
	$(BIN)/pytest tests/sim -q

.PHONY: test-component
test-component: venv ## The operator's parts against a real kube-apiserver and etcd
	$(BIN)/pytest tests/component -q --ignore=tests/component/faults --ignore=tests/component/test_fuzz.py

.PHONY: test-faults
test-faults: venv ## The operator on an API server that fails in many ways, and 300 generated objects (AIFACTORY_LONG=1: outages of two minutes, 10,000 objects)
	$(BIN)/pytest tests/component/faults tests/component/test_fuzz.py -q

.PHONY: test-night
test-night: ## For a night: a million simulated steps from a seed of its own, outages of two minutes, 10,000 generated objects, long workloads, the endpoint beside vLLM
	@export AIFACTORY_SIM_STEPS=$${AIFACTORY_SIM_STEPS:-1000000} AIFACTORY_SIM_SEED=$${AIFACTORY_SIM_SEED:-$$RANDOM}; \
	echo "$$AIFACTORY_SIM_STEPS steps from seed $$AIFACTORY_SIM_SEED"; $(MAKE) --no-print-directory test-sim
	AIFACTORY_LONG=1 $(MAKE) --no-print-directory test-faults
	AIFACTORY_LONG=1 $(MAKE) --no-print-directory test-component test-workloads
	$(MAKE) --no-print-directory bench-engines

.PHONY: test-alerts
test-alerts: venv ## The chart's alerts by promtool, and its dashboards' queries by a Prometheus over recorded pages
	$(BIN)/pytest tests/monitoring -q

.PHONY: test-browser
test-browser: venv build/browser/.ready ## The dashboard in a real Chromium: live, by keyboard, on a phone, light and dark, accessible (AIFACTORY_UPDATE_GOLDENS=1: its picture)
	PYTHONPATH=build/browser $(BIN)/pytest tests/browser -q

build/browser/.ready: tests/browser/requirements.lock
	@$(MAKE) --no-print-directory uv
	@rm -rf build/browser; uv=$$($(PYTHON) localcluster/ensure_uv.py); \
	$$uv pip install --quiet --require-hashes --python $(BIN)/python --target build/browser -r $<
	@touch $@

.PHONY: mutate
mutate: venv ## For a night: thousands of small mistakes made in the code, each of which a test must notice (MODULE=kube or MODULE=kube/queue for some; JOBS=2)
	PYTHONHASHSEED=0 $(BIN)/python -m tests.mutation $(MODULE) --jobs $(or $(JOBS),1) $(ARGS)

.PHONY: test-localcluster
test-localcluster: venv cluster ## The local cluster heals after whatever ended its processes (it kills every pod in it)
	$(BIN)/pytest tests/localcluster -q

.PHONY: test-cluster
test-cluster: venv cluster images ## The whole factory on a real cluster: containers, PyTorch, Triton, Helm
	$(BIN)/pytest tests/cluster -q --durations=8

.PHONY: test-argo
test-argo: venv cluster images ## The real Argo CD next to the local cluster: the chart, a factory, drift (built once, for minutes; not part of test)
	$(BIN)/pytest tests/argo -x -q --durations=8

.PHONY: test-upgrade
test-upgrade: venv cluster images ## From the release before to this one, back and forward, with a job and pools under traffic (FROM=commit or tag; not part of test: it takes the CRDs away)
	AIFACTORY_UPGRADE_FROM="$(FROM)" $(BIN)/pytest tests/upgrade -x -q --durations=8

.PHONY: test-kueue
test-kueue: venv cluster images ## The real Kueue in the local cluster: two teams, quotas, preemption (built once, for minutes; not part of test)
	$(BIN)/pytest tests/kueue -x -q --durations=8

.PHONY: test-gateway-api
test-gateway-api: venv cluster images ## The real Envoy Gateway before pools of the local cluster: a Canary by weights, what is missing (built once; not part of test)
	$(BIN)/pytest tests/gateway_api -x -q -s --durations=8

.PHONY: bench
bench: venv ## Thousands of objects on fake nodes next to a bare client; fails when a figure leaves its range (SCENARIO=... for one)
	$(BIN)/python -m tests.bench $(SCENARIO) --docs $(ARGS)

.PHONY: bench-engines
bench-engines: venv ## A pod's endpoint beside vLLM on this machine's CPUs, and both under AIPerf, without a cluster (7 GB, once; ARGS=--docs for its page)
	@model=$$($(BIN)/python -c 'from demo.pretrained.model import MODELS, ensure; print(ensure(MODELS["chat-model"]))' | tail -n 1); \
	$(MAKE) --no-print-directory -C workloads bench-engines MODEL="$$model" ARGS="$(ARGS)"

.PHONY: bench-peers
bench-peers: venv ## JobSet's and Kubeflow Trainer's controllers beside ours with the same jobs, in one run (built once; ARGS="--scale 0.01" for a small one)
	$(BIN)/python -m tests.bench.peers $(or $(ARGS),--docs)

.PHONY: gpu-check
gpu-check: ## Trainer and server on this machine's GPU, no cluster: what holds, and how fast (TORCH_PYTHON=... for a Python that has PyTorch)
	@$(MAKE) --no-print-directory -C workloads gpu-check

##  The local cluster (a development and test tool)

.PHONY: cluster
cluster: ## A real one-node Kubernetes on this machine; heals itself when called again
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop the local cluster; nothing stays running or mounted
	@$(CLUSTER) down

.PHONY: cluster-logs
cluster-logs: ## Last lines of every component's log (COMPONENT=kubelet for one)
	@$(CLUSTER) logs $(COMPONENT)

.PHONY: kubeconfig
kubeconfig: ## Print the path of the local cluster's kubeconfig, nothing else
	@$(CLUSTER) kubeconfig

.PHONY: images
images: cluster ## Build what changed of the operator, trainer, agent and server images and load it into the local cluster
	@$(IMAGES) load

.PHONY: run
run: venv ## Run the operator from this checkout against the local cluster (KUBECONFIG=... for another; ARGS=... for options)
	@$(if $(KUBECONFIG),,$(CLUSTER) up)
	@export KUBECONFIG="$(or $(KUBECONFIG),$$($(CLUSTER) kubeconfig))" kubectl="$$($(CLUSTER) bin kubectl)"; \
	"$$kubectl" apply --server-side --force-conflicts --field-manager=helm -f crds/ >/dev/null; \
	"$$kubectl" create namespace aifactory-system --dry-run=client -o yaml | "$$kubectl" apply -f - >/dev/null; \
	holder=$$("$$kubectl" -n kube-system get lease aifactory.dev -o 'jsonpath={.spec.holderIdentity}' 2>/dev/null || true); \
	if [ -n "$$holder" ]; then echo "$$holder leads now; to take over at once: $$kubectl --kubeconfig $$KUBECONFIG -n aifactory-system scale deployment/aifactory-operator --replicas=0"; fi; \
	PYTHONPATH=operator exec $(BIN)/python -m aifactory.app --release=aifactory-system/aifactory $(ARGS)

##  Plumbing

.PHONY: uv
uv:
	$(eval UV := $(shell $(PYTHON) localcluster/ensure_uv.py))
	@test -n "$(UV)" || { echo "uv could not be installed: see the line above" >&2; exit 1; }

.PHONY: venv
venv: $(VENV)/.ready ## The development environment in .venv, from the lock file

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(MAKE) --no-print-directory uv
	uv=$$($(PYTHON) localcluster/ensure_uv.py); \
	$$uv venv --quiet --allow-existing --python 3.11 $(VENV); \
	$$uv pip sync --quiet --require-hashes --python $(BIN)/python requirements-dev.lock; \
	$$uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	@touch $@
