# `make` alone lists the targets: the text after ## says what each one does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Containers often set it. Packages are installed without their bytecode, and every start of Python would compile them
# anew: 23 s of CPU for torch and lightning instead of 8, 3.5 for a server instead of 1.1.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
# PYTHON=... names the Python that .venv is made with; by default python3.11, or python3 where that is 3.11 or newer.
MODELS ?= models
OUT ?= demo
PORT ?= 8500
METRICS_PORT ?= 9464
STUDIO_PORT ?= 8080
DEVICE ?= auto
# Trained models that are served beside those of MODELS; ZOO= for none.
ZOO ?= exporter/zoo

# What is installed: what the parts need to run, the page of the studio with them, and everything, with
# what checks and tests need.
PARTS := $(VENV)/.parts-installed
PAGE := $(VENV)/.studio-installed
INSTALLED := $(VENV)/.installed
TOOLS := .tools/.installed

##@ Use it
demo: $(PARTS) ## Train, export, serve, sample and measure on real digits; results in demo/
	@$(BIN)/ancestral-demo run --models $(MODELS) --out $(OUT)

serve: $(PARTS) ## Serve models/ and the zoo on port 8500 until Ctrl-C; trains the default ones where models/ has none
	@exec $(BIN)/ancestral-demo serve --models $(MODELS) $(if $(ZOO),--zoo $(ZOO)) --port $(PORT) --metrics-port $(METRICS_PORT) --device $(DEVICE)

studio: $(PAGE) ## Serve the models, and on port 8080 a page that shows what they do; STUDIO_PORT=... for another
	@exec $(BIN)/ancestral-demo studio --models $(MODELS) $(if $(ZOO),--zoo $(ZOO)) --port $(STUDIO_PORT)

##@ Work on it
pictures: $(PARTS) ## Train anew, run the demo, say which pictures of the README differ, and take them over; minutes
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/ancestral-demo run --models "$$folder/models" --out "$$folder/out"; \
	$(BIN)/python -m ancestral_demo.pictures "$$folder/out" clients/demo

studio-pictures: both ## Take the pictures of the studio's README anew, with the models of a server: after `make serve`
	@PYTHONPATH=tests $(BIN)/python tests/studiopictures.py clients/studio

install: $(INSTALLED) ## Make .venv with everything at the locked versions
	@echo "Ready: $(BIN)/ancestral, $(BIN)/ancestral-server, $(BIN)/ancestral-exporter"

tools: $(TOOLS) ## Fetch the tools of check and test into .tools/: .ci/tools says which
	@echo "Ready: $$(ls .tools/bin | xargs)"

protos: $(INSTALLED) ## Generate the Python code of the protos anew
	@.ci/stubs protos

generated: $(INSTALLED) ## Write dashboards, console page, page of metrics, reference of docstrings and protos anew
	@PYTHONPATH=deploy $(BIN)/python -m observability
	@$(BIN)/python .ci/reference_pages.py
	@$(BIN)/python .ci/proto_pages.py

check: both ## Lint, format, types, protos, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	.tools/bin/buf lint protos
	.tools/bin/buf format protos --diff --exit-code
	.ci/check-stubs

format: both ## Format the sources and the protos, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	.tools/bin/buf format protos -w

test: both ## Run all tests in a random order; ARGS="tests/clients -k grid" for some
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# With PYTHON=... it runs on that Python as it is, for machines that cannot install anything.
ifdef PYTHON
GPU_PYTHON := $(PYTHON)
else
GPU_PYTHON := $(BIN)/python
gpu-check: $(INSTALLED)
endif
gpu-check: ## Check kernels and graphs on the GPU and time them and the server; with PYTHON=python3 it installs nothing
	@PYTHONPATH=protos:server:exporter:clients/python$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) tests/benchmarks/gpu_check.py $(ARGS)

bench: $(INSTALLED) ## Time sampling against one parallel pass, naive loops and static batching; 10 minutes
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

bench-front-end: $(INSTALLED) ## Time single calls against a bare gRPC echo, streams against raw onnxruntime; 5 minutes
	@$(BIN)/python tests/benchmarks/front_end.py $(ARGS)

bench-perf-analyzer: perf-analyzer ## Time ModelInfer by NVIDIA's load generator, against bare gRPC servers; 4 minutes
	@$(BIN)/python tests/benchmarks/perf_analyzer.py $(ARGS)

bench-isolation: $(INSTALLED) ## Time Encode beside a saturated sampler; a minute
	@$(BIN)/python tests/benchmarks/isolation.py $(ARGS)

bench-raster-loop: $(INSTALLED) ## Time the sampler's own loop, by a program that answers at once; seconds
	@$(BIN)/python tests/benchmarks/raster_loop.py $(ARGS)

ablation: $(INSTALLED) ## What each heuristic, and a change, is worth, in pairs; 25 minutes, ARGS="--only fill" for a row
	@PYTHONPATH=tests:tests/soak $(BIN)/python tests/benchmarks/ablation.py $(ARGS)

train-zoo: $(INSTALLED) ## Train what the zoo lacks, on a GPU where there is one: DATA=DIR of MNIST, ARGS="--minutes 60"
	@$(BIN)/python -m ancestral_exporter.zoo --zoo exporter/zoo --models $(MODELS) --data $(DATA) $(ARGS)

results: $(INSTALLED) ## Write exporter/RESULTS.md from the bundles of the zoo and of models/, and what lies in exporter/evaluated
	@$(BIN)/ancestral-exporter results exporter/zoo exporter/evaluated $(if $(wildcard $(MODELS)/*/*/bundle.json),$(MODELS)) --evaluated exporter/evaluated --out exporter/RESULTS.md

perf-analyzer: $(INSTALLED) ## Fetch NVIDIA's perf_analyzer into .tools/bin, to measure this server and others alike
	@.ci/perf-analyzer
	@echo "Ready: .tools/bin/perf_analyzer"

bench-telemetry: $(INSTALLED) ## Hold p99 of the histograms against callers', at three loads, and time a scrape of 20 models; a minute
	@$(BIN)/python tests/benchmarks/telemetry.py $(ARGS)

soak: $(INSTALLED) ## Minutes of callers that agree on nothing; ARGS="--minutes 20" for longer
	@PYTHONPATH=tests $(BIN)/python tests/soak/run_soak.py $(ARGS)

overload: $(INSTALLED) ## Three times more calls than can be served, and what dynamic batching is worth; 9 minutes
	@PYTHONPATH=tests $(BIN)/python tests/soak/run_overload.py $(ARGS)

restarts: $(INSTALLED) ## Servers that stop, die and come back, and models that change, under load
	@PYTHONPATH=tests $(BIN)/python tests/soak/run_restarts.py $(ARGS)

bulk-check: $(INSTALLED) ## 100,000 images from Parquet to Parquet by both engines of bulk, with deaths on the way; minutes
	@PYTHONPATH=tests:tests/benchmarks $(BIN)/python tests/soak/run_bulk.py $(ARGS)

million: $(INSTALLED) ## A million images through Client.encode: memory, and the rate beside a bare EncodeStream; 3 minutes
	@PYTHONPATH=tests $(BIN)/python tests/soak/run_million.py $(ARGS)

fuzz: $(INSTALLED) ## 100,000 malformed requests over all RPCs and 2,000 corrupted bundles; 5 minutes
	@PYTHONPATH=tests:tests/soak $(BIN)/python tests/fuzz/run_fuzz.py $(ARGS)

kernel-check: $(INSTALLED) ## Compile and run the GPU kernel without a GPU: random nets, barriers, all targets; 15 minutes
	@PYTHONPATH=tests $(BIN)/python tests/benchmarks/kernel_check.py $(ARGS)

image-check: $(INSTALLED) ## Run each image's command as any user on a read-only root, a training too; as root, a minute
	@IMAGE_CHECK=1 $(BIN)/python -m pytest -n 0 tests/deploy/test_images.py $(ARGS)

lock: $(INSTALLED) ## Write requirements.lock from what .venv holds
	@.ci/lock >requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## Remove .venv, .tools and caches; models/ and demo/ stay
	rm -rf $(VENV) .tools build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis lightning_logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# Packages and tools come side by side: either waits for the network half of its time.
both:
	@$(MAKE) -s -j2 $(INSTALLED) $(TOOLS)

$(BIN)/python:
	@.ci/venv $(VENV) $(PYTHON)

# The stamps make a second run instantaneous; a new lock or pyproject installs again. Everything holds the parts.
$(PARTS): requirements.lock pyproject.toml | $(BIN)/python
	@.ci/install $(VENV) client,server,exporter,demo
	@touch $@

$(PAGE): requirements.lock pyproject.toml | $(BIN)/python
	@.ci/install $(VENV) client,server,exporter,demo,studio
	@touch $(PARTS) $@

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	@.ci/install $(VENV) all
	@touch $(PARTS) $(PAGE) $@

$(TOOLS): .ci/tools .ci/triton-env .ci/kubernetes-env .ci/perf-analyzer clients/examples/node/package-lock.json | $(BIN)/python
	@.ci/tools
	@touch $@

.PHONY: studio-pictures results train-zoo ablation bench bench-front-end bench-perf-analyzer bench-isolation bench-raster-loop bench-telemetry soak overload restarts bulk-check million fuzz demo pictures serve studio install tools protos generated check format test gpu-check image-check kernel-check perf-analyzer lock clean help
# What only other targets ask for.
.PHONY: both
