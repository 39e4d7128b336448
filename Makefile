# The commands of this repository. Each does its own set-up.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# What boots no microVM and touches no network of this machine: on both cores.
TOGETHER := tests --numprocesses 2 -m "not vm and not host and not net and not e2e and not lab
ALONE := tests -m "(vm or host or net) and not e2e
# End-to-end tests and those of the lab get a network, mounts and processes of their own; all end with the last test.
ISOLATED := unshare --net --mount --pid --fork --kill-child --mount-proc bash tools/isolated.sh

.PHONY: help setup demo down test test-alone test-isolated test-fast test-full bench fmt lint types imports rust-lint \
	rust-test programs fuzz

help: ## Show the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## Install everything this repository needs
	@tools/setup.sh

demo: setup ## Three regions on this machine, examples/hello in each, clients answered by their own
	@bash tools/demo.sh

down: ## End the demo, and Godwit here if it is up; nothing is left running
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m lab --name demo down; fi
	@if [ -x .venv/bin/godwit ]; then .venv/bin/godwit down; else echo "Godwit is not up here"; fi

test: setup lint types imports rust-lint rust-test ## Every test: Python, Rust, real microVMs (about 55 minutes on 2 cores)
	$(PYTEST) $(TOGETHER) and not full"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-alone test-isolated

# Neither keeps a core busy: machines boot, programs start, clocks run out.
test-alone:
	$(PYTEST) $(ALONE) and not full"

test-isolated:
	$(ISOLATED) $(PYTEST) tests/e2e -m "not full"
	$(ISOLATED) $(PYTEST) tests/lab -m "not full"

test-fast: ## What needs neither root nor a microVM (under 2 minutes)
	@tools/setup.sh python
	@$(MAKE) --no-print-directory lint types imports
	$(PYTEST) $(TOGETHER) and not postgres and not full"

test-full: setup lint types imports rust-lint rust-test ## Everything, the long tests included
	@tools/setup.sh strangers
	$(PYTEST) --hypothesis-profile searching $(TOGETHER)"
	$(PYTEST) --hypothesis-profile searching $(ALONE)"
	$(ISOLATED) $(PYTEST) tests/e2e
	$(ISOLATED) $(PYTEST) tests/lab
	$(ISOLATED) $(PYTEST) tests/moved
	$(ISOLATED) $(PYTEST) tests/postgres
	$(ISOLATED) $(PYTEST) tests/upgrade

bench: setup ## Measure against peers; AREA=machine measures one area
	@tools/setup.sh peers
	$(ISOLATED) $(PYTHON) tools/bench.py $(AREA)

CASES ?= 20000
ONLY ?=
fuzz: ## Look longer for what breaks a parser or a rule; CASES=200000 of each, ONLY=proxy_header
	cd rust && PROPTEST_CASES=$(CASES) cargo test --quiet --locked -p godwit-catalog -p godwit-edge -p godwit-dns $(ONLY)

programs: ## Build the Rust programs
	@tools/setup.sh programs

fmt: ## Format Python and Rust
	$(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix . && cd rust && cargo fmt

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

imports:
	.venv/bin/lint-imports

rust-lint:
	cd rust && cargo fmt --check && cargo clippy --quiet --locked --all-targets -- -D warnings

rust-test:
	@cd rust && scratch=$$(mktemp -d) && TMPDIR=$$scratch cargo test --quiet --locked; code=$$?; \
		rm -rf "$$scratch"; exit $$code
