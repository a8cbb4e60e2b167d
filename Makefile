# Needs Python 3.11 or newer and nothing else: everything goes into .venv, and the server comes with it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

# The first one that is new enough; `make run PYTHON=/path/to/python3` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
COMPOSE ?= $(shell for engine in "docker compose" "podman compose" docker-compose podman-compose; do \
	$$engine version >/dev/null 2>&1 && echo "$$engine" && break; done)

JOBS ?= 2

export SPINE_CHAOS_EXAMPLES ?= 200
export SPINE_CHAOS_SCALE ?= 1

.PHONY: help
help:  ## show this list
	@awk 'BEGIN {FS = ":.*## *"} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Recipes replace their shell by the program, so that it gets every signal itself.

.PHONY: run
run: $(INSTALLED)  ## let the reference team work through conversations [CONVERSATIONS=dir] [FRESH=1] [WORKERS=n] [RATE=n] [CANCEL=n]
	@exec $(BIN)/python -m agents.team $(if $(CONVERSATIONS),--conversations "$(CONVERSATIONS)") \
		$(if $(filter-out 0,$(FRESH)),--fresh) $(if $(WORKERS),--workers $(WORKERS)) $(if $(RATE),--rate $(RATE)) \
		$(if $(CANCEL),--cancel $(CANCEL))

.PHONY: race
race: $(INSTALLED)  ## play them with and without the gate, and count what is booked too early [CONVERSATIONS=dir]
	@exec $(BIN)/python -m agents.race $(if $(CONVERSATIONS),--conversations "$(CONVERSATIONS)")

.PHONY: test
test: $(INSTALLED_DEV)  ## run the tests, JOBS files side by side [JOBS=2] [ARGS="tests/unit -x"]
	@exec $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

.PHONY: lint
lint: $(INSTALLED_DEV)  ## check style and formatting
	@$(BIN)/ruff check . && exec $(BIN)/ruff format --check .

.PHONY: types
types: $(INSTALLED_DEV)  ## check types
	@exec $(BIN)/mypy

.PHONY: chaos
chaos: $(INSTALLED_DEV)  ## kill processes and servers at random moments [SPINE_CHAOS_EXAMPLES=200] [SPINE_CHAOS_SCALE=1]
	@exec $(BIN)/python -m pytest -m chaos $(ARGS)

.PHONY: chaos-ci
chaos-ci:  ## the same, small: 20 examples, a fiftieth of the events
	@$(MAKE) --no-print-directory chaos SPINE_CHAOS_EXAMPLES=20 SPINE_CHAOS_SCALE=0.02

.PHONY: soak
soak: $(INSTALLED_DEV)  ## run the long and the large tests
	@exec $(BIN)/python -m pytest -m soak $(ARGS)

.PHONY: bench
bench: $(INSTALLED_BENCH)  ## measure the spine and what one would use instead [ARGS="…"]
	@$(BIN)/python -m scripts.bench $(ARGS) && exec $(BIN)/python -m scripts.coordination_latency

.PHONY: up
up:  ## start server and reference team in containers
	@$(if $(COMPOSE),exec $(COMPOSE) up --build --detach,echo "needs docker compose or podman compose" >&2; exit 1)

.PHONY: down
down:  ## stop the containers; the data stays in their volume
	@$(if $(COMPOSE),exec $(COMPOSE) down,echo "needs docker compose or podman compose" >&2; exit 1)

.PHONY: clean
clean:  ## remove the virtual environment, caches and build output; the data in .spine stays
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@echo "making a virtual environment in $(VENV) with $$("$(PYTHON)" --version)" >&2
	@"$(PYTHON)" -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@echo "installing spine in $(VENV)" >&2
	@$(PIP) install --editable .
	@touch $@

# Dependency groups are known to pip since 25.1.
$(INSTALLED_DEV): pyproject.toml | $(BIN)/python
	@echo "installing spine and its development tools in $(VENV)" >&2
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --editable ".[testing]" --group dev
	@touch $(INSTALLED) $@

$(INSTALLED_BENCH): pyproject.toml | $(INSTALLED_DEV)
	@echo "installing what the benchmark compares with in $(VENV)" >&2
	@$(PIP) install --group bench
	@touch $@
