# `make help` lists the targets. Everything runs in .venv; nothing outside this directory is changed.

PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(name) -c \
	'import sys; sys.version_info[:2] in ((3, 11), (3, 12)) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install lint test serve bench tpu-check

DEMO_MODEL := models/SmolLM2-135M-Instruct
MODEL_ID := $(DEMO_MODEL)
PORT := 8080

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the project in it; quick the second time

$(INSTALLED): pyproject.toml hatch_build.py $(wildcard proto/*.proto)
	@test -x $(BIN)/python || test -n "$(PYTHON)" \
		|| { echo "Python 3.11 or 3.12 is needed, and neither is in PATH." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: $(INSTALLED) ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint ## install, lint, and run the tests
	$(BIN)/python -m pytest

# --- serving: serve, tpu-tgi ---

serve: $(INSTALLED) ## serve the demo model, or MODEL_ID=..., on PORT=8080; HF_BATCH_SIZE=..., HF_SEQUENCE_LENGTH=...
	@test "$(MODEL_ID)" != "$(DEMO_MODEL)" || $(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/tpu-tgi --model-id "$(MODEL_ID)" --port "$(PORT)"

# What make was given as HF_BATCH_SIZE=4 must reach the service, as if it stood in the environment.
ifdef HF_BATCH_SIZE
export HF_BATCH_SIZE
endif
ifdef HF_SEQUENCE_LENGTH
export HF_SEQUENCE_LENGTH
endif

# --- measuring: bench, tpu-check ---

TPU_CHECK := .venv-tpu-check

bench: $(INSTALLED) ## measure the engine beside eager transformers; needs a quiet machine and five minutes
	@$(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.engine_speed $(DEMO_MODEL)

tpu-check: $(INSTALLED) $(TPU_CHECK)/.installed ## compile the programs with the TPU compiler and judge the result
	@$(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.tpu_check --compiler $(TPU_CHECK)/bin/python

# pip older than 25.1 cannot read dependency groups.
$(TPU_CHECK)/.installed: pyproject.toml
	$(BIN)/python -m venv $(TPU_CHECK)
	$(TPU_CHECK)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(TPU_CHECK)/bin/python -m pip install --quiet --group tpu-check
	touch $@
