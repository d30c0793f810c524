# Every chore of the project. `make` alone lists them; the first one that needs it sets .venv up.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
WORKERS ?= 2
DEMO_ARGS ?=
TEST_ARGS ?=
COVERAGE ?=
BENCH ?=
BENCH_ARGS ?=
ROWS ?=
SUITES ?=
FRESH ?=
FUZZ_S ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := -m pip --disable-pip-version-check -qq --no-input

# Agent Lightning 0.3 needs Python 3.11 and an environment of its own (docs/adr/0001).
LIGHTNING_PYTHON ?= $(shell python3.11 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo python3.11)
LIGHTNING := .venv-lightning
LIGHTNING_BIN := $(LIGHTNING)/bin
LIGHTNING_STAMP := $(LIGHTNING)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup setup-lightning demo test test-lightning torture statistics lint proto docs bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 18

setup: $(STAMP)  ## create .venv with everything but Agent Lightning (once)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "AgentGym needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV): two to three minutes and 2 GB the first time"
	@$(BIN)/python $(PIP) install --root-user-action=ignore --constraint constraints.txt --editable '.[all,demo,dev]'
	@touch $@

setup-lightning: $(LIGHTNING_STAMP)  ## create .venv-lightning with the second engine (once, needs python3.11)

$(LIGHTNING_STAMP): pyproject.toml constraints-lightning.txt
	@test -n "$(LIGHTNING_PYTHON)" || { echo "Agent Lightning 0.3 needs Python 3.11; set LIGHTNING_PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(LIGHTNING_BIN)/python || { echo "creating $(LIGHTNING) with $(LIGHTNING_PYTHON)"; $(LIGHTNING_PYTHON) -m venv $(LIGHTNING); }
	@echo "installing into $(LIGHTNING): two minutes and 2 GB the first time"
	@$(LIGHTNING_BIN)/python $(PIP) install --root-user-action=ignore --constraint constraints-lightning.txt \
		--editable '.[daemon,lightning]' pytest pytest-asyncio pytest-cov pytest-timeout
	@touch $@

demo: $(STAMP)  ## three agents learn to choose tools, in two to six minutes (DEMO_ARGS=...)
	@$(BIN)/agentgym-daemon demo $(DEMO_ARGS)

test: $(STAMP)  ## all tests, both environments (COVERAGE=1: and its floor, half as long again; WORKERS=2 TEST_ARGS=...)
	@rm -f .coverage .coverage.*
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal \
		$(if $(COVERAGE),--cov --cov-config=pyproject.toml --cov-report=term) $(TEST_ARGS)
	@if test -n "$(LIGHTNING_PYTHON)"; then $(MAKE) --no-print-directory test-lightning; \
	else echo "skipped: tests/lightning needs python3.11, which Agent Lightning 0.3 is for (docs/agent-lightning.md)"; fi

test-lightning: $(LIGHTNING_STAMP)  ## the second engine's suite, in its own environment
	@$(LIGHTNING_BIN)/python -m pytest -q -p no:cacheprovider tests/lightning \
		--cov --cov-config=tests/lightning/coverage.ini --cov-report=term

torture: $(STAMP)  ## the fault tests at full load, resumable, into build/reports (ROWS='B1 C2' FRESH=1 FUZZ_S=...)
	@AGENTGYM_TEST_LOAD=full AGENTGYM_TEST_FRESH=$(FRESH) AGENTGYM_TEST_ROWS='$(ROWS)' AGENTGYM_TEST_FUZZ_S=$(FUZZ_S) \
		$(BIN)/python -m pytest -q -p no:cacheprovider tests/faults $(TEST_ARGS)

statistics: $(STAMP)  ## the safety suites at full load, resumable, into build/reports (SUITES='aa gate' FRESH=1)
	@AGENTGYM_TEST_LOAD=full AGENTGYM_TEST_FRESH=$(FRESH) AGENTGYM_TEST_SUITES='$(SUITES)' \
		$(BIN)/python -m pytest -q -p no:cacheprovider tests/safety $(TEST_ARGS)

lint: $(STAMP)  ## format, lint, types, import arrows, docs
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

proto: $(STAMP)  ## generate the stubs from proto/ (docs/adr/0003)
	@cd proto && find agentgym -name '*.proto' | sort | xargs $(abspath $(BIN))/python -m grpc_tools.protoc \
		-I. --python_out=../plugins --grpc_python_out=../plugins --pyi_out=../plugins

docs: $(STAMP)  ## serve the documentation on localhost
	@$(BIN)/mkdocs serve

bench: $(STAMP)  ## measure (BENCH=NAME BENCH_ARGS='--json FILE'); without a name, list them
	@$(BIN)/agentgym-daemon bench $(BENCH) $(BENCH_ARGS)

clean:  ## remove what the other targets made, the environments too
	@rm -rf $(VENV) $(LIGHTNING) build dist site .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
