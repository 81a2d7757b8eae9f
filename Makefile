# The short way to do things; CI calls the same names (.ci/run).
# Every target makes what it needs first: .venv from requirements/dev.lock, node packages for the tests.

PYTHON ?= python3
JOBS   ?= auto
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
# For `make pytest` and `make bench`: make pytest ARGS="tests/unit -k reasons"
ARGS   ?=

CONFORMANCE := docs/reference/conformance.md
# The rooms whose every branch is run by a test; the whole package may fall a little short of that.
FULLY_COVERED := jupyter_token_ws/protocol/*,jupyter_token_ws/guard/*
RECORDS := build/conformance
ROOMS := tests/unit/protocol tests/unit/guard tests/unit/login tests/unit/tunnel tests/unit/client
PARALLEL = -n $(JOBS) --dist loadgroup

export PYTHONUNBUFFERED := 1
# What happens to be configured for Jupyter or for coverage on this machine must not matter here.
unexport JUPYTER_CONFIG_DIR JUPYTER_CONFIG_PATH JUPYTER_DATA_DIR JUPYTER_PATH JUPYTER_RUNTIME_DIR
unexport JUPYTER_TOKEN COVERAGE_FILE COVERAGE_RCFILE PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [JOBS=4]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# --- set-up ---------------------------------------------------------------------------------------

.PHONY: demo-env
demo-env:
	@$(PYTHON) -m tools.bootstrap demo

.PHONY: env
env: ## make or update .venv, the node packages, and the part for JupyterLab
	@$(PYTHON) -m tools.bootstrap dev

.PHONY: lock
lock: env ## choose newest versions for all development packages: requirements/dev.lock
	$(BIN)/uv pip compile --universal --python-version 3.10 --upgrade --group dev --extra demo \
		--extra redis --extra sealed --extra client \
		--no-emit-package jupyter-token-ws --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --quiet --output-file requirements/dev.lock pyproject.toml
	for place in tests/node frontend frontend/lab; do \
		npm install --prefix $$place --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund || exit; \
	done
	@echo "now: make test, then commit requirements/dev.lock and every package-lock.json"

# --- to see it ------------------------------------------------------------------------------------

.PHONY: demo
demo: demo-env ## a server, a kernel and its sockets opened every way (KEEP=1 leaves it running)
	$(PY) -m jupyter_token_ws.cli demo $(if $(filter-out 0,$(KEEP)),--keep)

# --- checks ---------------------------------------------------------------------------------------

.PHONY: test
test: lint ## lint, types, all tests but the heavy ones, coverage
	@rm -f .coverage .coverage.*
	# In processes of their own: coverage sees little of what runs in one where a browser was driven,
	# or where a test of our tools measured something itself.
	$(PY) -m coverage run -m pytest $(PARALLEL) -m "not heavy" $(ROOMS) \
		--conformance-record=$(RECORDS)/rooms.json
	$(PY) -m coverage run -m pytest $(PARALLEL) -m "not heavy" $(addprefix --ignore=,$(ROOMS) tests/browser) \
		--conformance-record=$(RECORDS)/others.json
	$(PY) -m pytest $(PARALLEL) -m "not heavy" tests/browser --conformance=$(CONFORMANCE) \
		--conformance-recorded=$(RECORDS)/rooms.json --conformance-recorded=$(RECORDS)/others.json
	@$(MAKE) --no-print-directory coverage

.PHONY: pytest
pytest: env ## some tests, without the gates: make pytest ARGS="tests/unit -k reasons"
	$(PY) -m pytest $(ARGS)

.PHONY: lint
lint: env ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: env ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: coverage
coverage: ## judge the coverage data of the last `make test`
	@$(PY) -m tools.coverage_gate --full "$(FULLY_COVERED)" --whole 95

.PHONY: test-all
test-all: env ## what takes minutes: oldest versions, upstream's own suite, the heavy tests
	@$(MAKE) --no-print-directory test-min
	@$(MAKE) --no-print-directory test-upstream
	# Two at a time: most of them wait for browsers, or take the time that they are about.
	$(PY) -m pytest -n 2 --dist loadfile -m heavy

.PHONY: fuzz
fuzz: env ## ten minutes of hostile clients of tunnels, of which `make test` has one
	TUNNEL_FUZZ_SECONDS=600 $(PY) -m pytest tests/integration/test_tunnel_fuzz.py

.PHONY: test-min
test-min: env ## the tests against the oldest versions we say we work with
	$(PY) -m tools.test_min

.PHONY: test-upstream
test-upstream: env ## jupyter_server's own tests, with and without the extension
	$(PY) -m tools.upstream_suite

.PHONY: bench
bench: env ## side by side with a stock server (NAME client: with another client): make bench ARGS="stream-v1 --pairs 5"
	$(PY) -m benchmarks $(ARGS)

.PHONY: mutation
mutation: env ## change protocol/ and guard/ here and there: do the tests notice?
	$(PY) -m tools.mutation --at-least 90

.PHONY: conformance
conformance: env ## write the test names into docs/reference/conformance.md
	$(PY) -m tools.conformance --write

.PHONY: docs
docs: env ## the documentation as HTML: docs/_build/html
	$(PY) -m tools.docs --write
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html

.PHONY: screenshots
screenshots: env ## the pictures of the documentation anew: docs/images/*.png
	SCREENSHOTS=1 $(PY) -m pytest -q -k "lab] and not 30s" tests/browser/test_lab_credentials.py tests/browser/test_lab_messages.py

.PHONY: build
build: env ## sdist and wheel in dist/, both with the part for JupyterLab
	$(PY) -m hatchling build

.PHONY: clean
clean: ## remove everything the targets made
	rm -rf .venv .venv-* .setup.lock .labextension.lock tests/node/node_modules .mypy_cache .pytest_cache .ruff_cache \
		frontend/node_modules frontend/lib frontend/coverage \
		frontend/lab/node_modules frontend/lab/lib frontend/lab/coverage jupyter_token_ws/labextension \
		.hypothesis .coverage .coverage.* htmlcov build dist mutants docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
