# Everything that is typed here works on a fresh Debian or Ubuntu machine with Rust on it: what is missing is installed
# and said. Elsewhere the message tells what to install.

SHELL := /bin/sh
export PATH := $(CURDIR)/tests/.work/bin:$(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
# Most of a test's time is waiting for what it started.
export RUST_TEST_THREADS ?= 8
CONFIG ?= config/quickstart.yaml
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test soak test-large-sdks test-k8s lint build image reproduce sbom fuzz bench bench-state siege counts setup-build setup-test setup-count setup-k8s setup-image

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup-build ## Hookmoat in front of a demo backend, here and now (CONFIG=…, ARGS=…)
	@mkdir -p data
	@test -d target/debug/deps || echo "hookmoat: the first build takes two minutes or so on two cores"
	@$(CARGO) run --locked -- run --config $(CONFIG) --demo $(ARGS)

test: setup-test ## All tests: unit, integration on real sockets, official SDKs (ARGS=a filter)
	@echo "== the SDKs against each other, with nothing in between"
	@cd tests/sdk && node direct.js
	@echo "== hookmoat"
	@$(CARGO) test --locked $(ARGS)

test-large-sdks: setup-test ## SDKs that are too large for every test run (330 MB), as judges of the presets
	@$(CARGO) build --locked
	@cd tests/sdk/large && npm ci --ignore-scripts && node judge.js ../../../target/debug/hookmoat

test-k8s: setup-k8s ## What is shipped for Kubernetes, with Prometheus, a browser, a collector, pods in namespaces
	@$(CARGO) build --locked
	@tests/.work/k8s/bin/python tests/k8s/check.py target/debug/hookmoat

soak: setup-test ## The long forms of the tests that kill, cut and fail at random: an hour or so (ARGS=a filter, HOOKMOAT_PROGRAM=a release build)
	@HOOKMOAT_SOAK=1 $(CARGO) test --locked --test it -- --nocapture --test-threads 2 $(or $(ARGS),state:: kills:: soak::)

lint: setup-build ## Format, clippy, licences and advisories (cargo-deny, if installed)
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check; else \
		echo "cargo-deny is not installed, licences and advisories were not checked (cargo install cargo-deny)"; fi

image: setup-image ## The container image from a static binary, with buildah, and tried (NAME=hookmoat:0.1.0)
	@k8s/image/build.sh binary
	@k8s/image/build.sh image $(NAME)
	@tests/k8s/image.py $(NAME)

reproduce: setup-image ## The static binary twice, in two folders, compared byte by byte: half an hour on two cores
	@k8s/image/build.sh reproduce

sbom: ## The bill of materials (CycloneDX) of what is compiled, target/hookmoat.cdx.json
	@mkdir -p target && k8s/image/sbom.py >target/hookmoat.cdx.json && echo target/hookmoat.cdx.json

build: setup-build ## The release binary, target/release/hookmoat
	@$(CARGO) build --locked --release

fuzz: setup-build ## A libFuzzer target for a while (TARGET=…, SECONDS=60); without TARGET the list
	@tests/fuzz/run.sh $(TARGET) $(SECONDS)

bench: build ## Benchmarks: the parts, and with BENCH=/path/to/the/harness all of it beside nginx, HAProxy and others
	@$(CARGO) bench --locked --bench verify --bench seen_ids
	@if [ -n "$(BENCH)" ]; then tests/bench/e2e.sh "$(BENCH)" $(ARGS); else \
		echo "bench: without BENCH=/path/to/the/harness the parts alone"; fi

bench-state: build ## What remembering costs: memory, SQLite, Redis (ARGS="--ids 10000000" for bytes per ID)
	@tests/bench/state.py $(ARGS)

siege: build ## Honest traffic through 10,000 idle connections and slowhttptest (ARGS="--write config/HARDENING.md")
	@tests/bench/siege.py $(ARGS)

counts: setup-count ## Instructions that hot parts take, beside the stored counts (ARGS="--release --update")
	@tests/bench/counts.sh $(ARGS)

setup-build:
	@tests/setup.sh build

setup-image:
	@tests/setup.sh image

setup-k8s:
	@tests/setup.sh k8s

setup-test:
	@tests/setup.sh test

setup-count:
	@tests/setup.sh count
