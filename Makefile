# The verbs of this repository. Everything is set up in .venv; nothing else on the machine is touched.
PYTHON ?= python3
CONFIG ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint clients bench soak clean

run: $(VENV)/.run  ## start the mirror on 127.0.0.1:5000
	$(BIN)/mirror serve $(if $(CONFIG),--config $(CONFIG))

test: lint  ## everything: lint, types, import contracts, unit to client tests; many wait, so three at once keep two cores busy
	$(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: $(VENV)/.dev  ## ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clients: $(VENV)/.dev  ## only the tests with real clients
	$(BIN)/pytest tests/clients

bench: $(VENV)/.dev  ## measure what the promises cost
	$(BIN)/python -m bench
soak: $(VENV)/.dev  ## a thousand kills amid random work; SOAK_KILLS and SOAK_SEED say how many, and from where
	SOAK_KILLS=$${SOAK_KILLS:-1000} $(BIN)/pytest -n 2 tests/model tests/faults/test_airgap_kills.py

clean: ; rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.run: requirements.lock pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m compileall -q mirror
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@
