# Everything a person types while working on the project. Needs Python >= 3.11 and Rust; the rest is fetched into .venv.
# Recipes refuse to know what the code does: they call tools.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

MODEL ?=
PORT ?= 30070
ARGS ?=
# Which Python makes .venv, as `uv venv --python` takes it.
PYTHON ?= >=3.11

VENV := .venv
BIN := $(VENV)/bin
# The first torch wheel is large and some lines are slow.
export UV_HTTP_TIMEOUT ?= 300
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

# uv from PATH, or a private copy where there is none.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
export PATH := $(CURDIR)/$(BIN):$(if $(filter .uv/bin/uv,$(UV)),$(CURDIR)/.uv/bin:)$(PATH)

PROJECTS := pyproject.toml kernels/pyproject.toml evals/pyproject.toml
RUST := Cargo.toml Cargo.lock $(shell find engine -type f '(' -path '*/src/*' -o -name Cargo.toml -o -name build.rs ')')
PYTHON_PACKAGES := python/agentlm kernels/src/agentlm_kernels evals/src/agentlm_evals bench recipes/nano
# The bindings are tested from Python: a test program of theirs would have to link a Python of its own.
TESTED := --workspace --exclude agentlm-py

DEPENDENCIES := $(VENV)/.dependencies
ENGINE := $(VENV)/.engine

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the environment -------------------------------------------------------------------------------------------------

.uv/bin/uv:
	@echo "uv is not on PATH: fetching a private copy into .uv"
	@(python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv) \
	  || python3 -m pip install --quiet --target .uv uv \
	  || { echo "No uv, and Python's venv and pip are not usable: install python3-venv or uv, then run make again." >&2; exit 1; }

$(DEPENDENCIES): constraints.txt $(PROJECTS) | $(UV)
	@test -x $(BIN)/python || "$(UV)" venv --quiet --python '$(PYTHON)' $(VENV)
	"$(UV)" pip install --quiet --python $(BIN)/python -c constraints.txt \
	  -r pyproject.toml --extra dev -e kernels -e evals
	@touch $@

$(ENGINE): $(DEPENDENCIES) $(RUST)
	@command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup, then run make again." >&2; exit 1; }
	$(BIN)/maturin develop --quiet --release --uv
	@touch $@

.PHONY: install
install: $(ENGINE) ## set up .venv with the three wheels, editable

# --- what people do --------------------------------------------------------------------------------------------------

.PHONY: serve
serve: $(ENGINE) ## serve MODEL (a checkpoint folder; without one, agentlm-nano) on PORT
	$(BIN)/agentlm serve $(if $(MODEL),--model "$(MODEL)") --port $(PORT) $(ARGS)

.PHONY: test
test: test-rust test-python ## every test: Rust, then Python

.PHONY: test-rust
test-rust: ## the tests of the engine (cargo-nextest where it is installed)
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --locked $(TESTED) && cargo test --locked --doc --quiet $(TESTED); \
	else cargo test --locked --quiet $(TESTED); fi
	@# Each seeded mistake in the scheduler must be caught by its property test.
	cargo test --locked --quiet -p agentlm-core --features mutations --test scheduler mutations

.PHONY: test-python
test-python: $(ENGINE) ## the tests under tests/
	$(BIN)/python -m pytest tests $(ARGS)

.PHONY: test-arm64
test-arm64: ## the tests of core and kernels for arm64, under qemu (x86-64 Linux; ARGS go to cargo test)
	engine/arm64.sh $(ARGS)

# The oldest Triton that is supported, beside the newest, which is in .venv.
OLD_TRITON := 3.6.0

$(VENV)/triton-$(OLD_TRITON): | $(DEPENDENCIES)
	"$(UV)" pip install --quiet --no-deps --target $@ triton==$(OLD_TRITON)

.PHONY: compile-gate
compile-gate: $(DEPENDENCIES) $(VENV)/triton-$(OLD_TRITON) ## every kernel for every GPU, under the oldest Triton and the newest; needs no GPU
	$(BIN)/python tests/kernels/compile_gate.py --target all > $(VENV)/compile-gate.log 2>&1 || { cat $(VENV)/compile-gate.log; exit 1; }
	PYTHONPATH=$(VENV)/triton-$(OLD_TRITON) $(BIN)/python tests/kernels/compile_gate.py --target all > $(VENV)/compile-gate.log 2>&1 \
	  || { cat $(VENV)/compile-gate.log; exit 1; }

.PHONY: clients
clients: $(DEPENDENCIES) ## environments for other people's clients, with which test-python then talks to the server
	$(BIN)/python -m tests.clients.environments

.PHONY: bench
bench: $(ENGINE) ## compare with other engines on this machine (hours; ARGS="--quick" for a look)
	$(BIN)/python -m bench $(ARGS)

.PHONY: bench-http
bench-http: $(ENGINE) ## what a streamed token costs the server, under h2load
	$(BIN)/python -m bench.http $(ARGS)
	cargo run --locked --quiet --release -p agentlm-server --example stream_cost
	cargo run --locked --quiet --release -p agentlm-server --example first_token

.PHONY: bench-core
bench-core: ## instructions that planning and committing a step take (needs valgrind)
	sh bench/core_instructions.sh

.PHONY: soak
soak: $(ENGINE) ## a million random scheduler operations, then random traffic for an hour (ARGS="--minutes 5")
	cargo test --locked --release -p agentlm-core --test scheduler soak -- --ignored
	$(BIN)/python -m bench.soak $(ARGS)

.PHONY: bench-tune
bench-tune: $(ENGINE) ## training beside Hugging Face's Trainer and peft, on this machine's processor
	$(BIN)/python -m bench.tune $(ARGS)

.PHONY: nano
nano: $(ENGINE) ## train agentlm-nano from nothing on this machine's processor; goes on where it was stopped
	test -f build/nano/corpus/arithmetic.jsonl || $(BIN)/python -m agentlm_evals.nano.corpus build/nano/corpus
	test -f build/nano/base/config.json || $(BIN)/python recipes/nano/base.py build/nano/corpus build/nano/base
	$(BIN)/agentlm tune recipes/nano/practice.toml --resume
	$(BIN)/agentlm tune recipes/nano/nano.toml --resume
	$(BIN)/agentlm tune recipes/nano/arithmetic.toml --resume
	$(BIN)/python recipes/nano/look.py build/nano/arithmetic/model

.PHONY: nano-study
nano-study: $(ENGINE) ## AgentTuning's experiment in miniature (ARGS=--rehearse tries it)
	$(BIN)/python -m bench.nano_study --record bench/results/nano-study.json $(ARGS)

.PHONY: fuzz
fuzz: $(DEPENDENCIES) ## fuzz bodies, templates, grammars and streams, 10 minutes each (needs nightly Rust and cargo-fuzz)
	$(BIN)/python engine/fuzz/run.py $(ARGS)

.PHONY: fuzz-api
fuzz-api: $(ENGINE) ## the API against its own document, a hundred times as many bodies as the tests
	AGENTLM_API_EXAMPLES=1200 $(BIN)/python -m pytest tests/server/test_openapi.py -q

.PHONY: openapi
openapi: ## docs/openapi.json from the code
	cargo run --quiet --locked -p agentlm-server --example openapi > openapi.new
	@mv openapi.new docs/openapi.json

.PHONY: load
load: $(ENGINE) ## 2,000 connections on the mock backend, then on a small model
	$(BIN)/python -m bench.load $(ARGS)

.PHONY: wheel
wheel: $(DEPENDENCIES) ## the three wheels, portable, in dist/
	@rm -rf dist
	$(BIN)/maturin build --release --locked --out dist $(WHEEL_ARGS)
	$(BIN)/abi3audit --strict --assume-minimum-abi3 3.11 dist/agentlm-*.whl
	"$(UV)" build --quiet --out-dir dist --wheel kernels
	"$(UV)" build --quiet --out-dir dist --wheel evals
	@ls -l dist

# Linux wheels are linked by zig against the oldest C library that torch's own wheels support.
WHEEL_ARGS ?= $(if $(filter Linux,$(shell uname -s)),--zig --compatibility manylinux_2_28)

.PHONY: test-wheel
test-wheel: ## the wheels in dist/ under other interpreters (ARGS="3.12 3.13 --tests")
	$(BIN)/python -m tests.repository.wheels $(or $(ARGS),$(BIN)/python)

# --- before a commit -------------------------------------------------------------------------------------------------

.PHONY: check
check: check-rust check-python check-stubs check-text ## format, lints, types, stubs, spelling, links: before every commit

.PHONY: check-rust
check-rust:
	cargo fmt --all --check
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --workspace

.PHONY: check-python
check-python: $(DEPENDENCIES)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check
	$(BIN)/mypy $(PYTHON_PACKAGES)

# The extension's stubs are compared with the extension itself, so that they cannot drift.
.PHONY: check-stubs
check-stubs: $(ENGINE)
	$(BIN)/python -m mypy.stubtest --concise agentlm._engine

.PHONY: check-text
check-text: $(DEPENDENCIES)
	$(BIN)/typos
	$(BIN)/python .ci/links.py
	$(BIN)/python .ci/tree.py
	$(BIN)/python .ci/licences.py

.PHONY: format
format: $(DEPENDENCIES) ## put every file into the house's format
	cargo fmt --all
	$(BIN)/ruff check --quiet --fix-only
	$(BIN)/ruff format --quiet

.PHONY: constraints
constraints: | $(UV) ## pin the newest versions that fit into constraints.txt
	@{ echo '# Pins for development and CI: written by `make constraints`, used as `uv pip install -c constraints.txt`.'; \
	  env -u UV_TORCH_BACKEND "$(UV)" pip compile --quiet --no-header --no-annotate --universal --python-version 3.11 \
	    --all-extras --no-emit-package agentlm-kernels --no-emit-package agentlm-evals $(PROJECTS); \
	} > constraints.new
	@mv constraints.new constraints.txt
	@for client in tests/clients/requirements/*.in; do \
	  "$(UV)" pip compile --quiet --upgrade --no-header --no-annotate --universal --python-version 3.11 \
	    --output-file "$${client%.in}.txt" "$$client"; \
	done

.PHONY: clean
clean: ## remove what was built here; .venv and downloads stay
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(ENGINE) python/agentlm/_engine*.so
	cargo clean
