# `make help` lists the targets. Everything runs in .venv; nothing outside this directory is changed.

PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(name) -c \
	'import sys; sys.version_info[:2] in ((3, 11), (3, 12)) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install lint test clients docs serve tpu-tgi tpu-tgi-v2 lock bench llama tpu-check

DEMO_MODEL := models/SmolLM2-135M-Instruct
MODEL_ID := $(DEMO_MODEL)
HOST := 127.0.0.1
PORT := 8080

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# PyTorch for CPUs alone, which is 5 GB smaller than PyPI's with its CUDA libraries; torch only records programs here.
TORCH_CPU := https://download.pytorch.org/whl/cpu
UV := $(shell command -v uv 2>/dev/null)
PIP = $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)

install: $(INSTALLED) ## make .venv and install the project in it; TORCH_INDEX=URL takes PyTorch from there, TORCH_INDEX= from PyPI

# The versions are those of the lock, which CI tests.
$(INSTALLED): pyproject.toml hatch_build.py locks/development.lock $(wildcard proto/*.proto)
	@test -x $(BIN)/python || test -n "$(PYTHON)" \
		|| { echo "Python 3.11 or 3.12 is needed, and neither is in PATH." >&2; exit 1; }
	@echo "Installing into $(CURDIR)/$(VENV): about 3 GB with PyTorch for CPUs, 8 GB with PyPI's; this takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(torch_from) "$(TORCH_INDEX)",$(if $(filter undefined,$(origin TORCH_INDEX)),@$(torch_if_reachable)))
	$(PIP) --constraint locks/torch.txt --constraint locks/development.lock --editable '.[dev]'
	touch $@

torch_from = $(PIP) --no-deps --requirement locks/torch.txt --index-url

# The index of CPU builds is used by itself where it answers within three seconds.
define torch_if_reachable
if $(BIN)/python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)' \
	$(TORCH_CPU)/torch/ 2>/dev/null; then $(torch_from) $(TORCH_CPU) \
	|| echo "$(TORCH_CPU) has no PyTorch for this machine: PyPI's is installed" >&2; fi
endef

lint: $(INSTALLED) ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint ## install, lint, and run the tests (those of other clients run once `make clients` was made)
	@$(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	$(BIN)/python -m pytest -m "not alone" --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m alone

CLIENTS := .venv-clients

clients: $(CLIENTS)/.installed ## make .venv-clients, for the tests of docs/clients with LangChain, LiteLLM and instructor

$(CLIENTS)/.installed: pyproject.toml | $(INSTALLED)
	rm -rf $(CLIENTS)
	$(BIN)/uv venv --quiet --python $(BIN)/python $(CLIENTS)
	$(BIN)/uv pip install --quiet --python $(CLIENTS)/bin/python --group clients
	touch $@

docs: $(INSTALLED) ## build the documentation as a site in build/site; fails if a link leads nowhere
	$(BIN)/mkdocs build --strict --quiet

# --- serving: serve, tpu-tgi ---

serve: $(INSTALLED) ## serve the demo model, or MODEL_ID=..., on HOST=127.0.0.1 PORT=8080; HF_BATCH_SIZE=..., HF_SEQUENCE_LENGTH=...
	@test "$(MODEL_ID)" != "$(DEMO_MODEL)" || $(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/tpu-tgi --model-id "$(MODEL_ID)" --hostname "$(HOST)" --port "$(PORT)"

# What make was given as HF_BATCH_SIZE=4 must reach the service, as if it stood in the environment.
ifdef HF_BATCH_SIZE
export HF_BATCH_SIZE
endif
ifdef HF_SEQUENCE_LENGTH
export HF_SEQUENCE_LENGTH
endif

# --- the image: tpu-tgi, tpu-tgi-v2, lock ---

IMAGE := ghcr.io/huggingface/tpu-tgi
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
DOCKER_BUILD := docker build
DEVICE := tpu
TAG_END := $(if $(filter cpu,$(DEVICE)),-cpu)

tpu-tgi: ## build the image, DEVICE=cpu without libtpu; TGI_IMAGE=..., PYTHON_IMAGE=... and TORCH_INDEX=... name other sources
	$(build_image) --tag $(IMAGE):$(VERSION)$(TAG_END) --tag $(IMAGE):latest$(TAG_END) .

tpu-tgi-v2: export ROUTER_IMAGE = ghcr.io/huggingface/text-generation-inference:3.3.7-neuron
tpu-tgi-v2: ## build the image with the router that speaks wire v2, from ROUTER_IMAGE=...
	$(build_image) --tag $(IMAGE):$(VERSION)-v2$(TAG_END) --tag $(IMAGE):latest-v2$(TAG_END) .

# Build arguments without a value here are what make was given, or else the defaults of the Dockerfile.
define build_image
$(foreach name,$(if $(RELEASE),TGI_IMAGE PYTHON_IMAGE $(if $(ROUTER_IMAGE),ROUTER_IMAGE)), \
	$(if $(findstring @sha256:,$($(name))),,$(error RELEASE=1 builds from digests only. Give $(name)=NAME:TAG@sha256:... \
	with the digest that `docker buildx imagetools inspect NAME:TAG` prints)))
$(DOCKER_BUILD) --build-arg TGI_IMAGE --build-arg ROUTER_IMAGE --build-arg PYTHON_IMAGE --build-arg TORCH_INDEX \
	--build-arg DEVICE=$(DEVICE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*')
endef

LOCK := $(BIN)/uv pip compile --quiet --upgrade --no-header --config-file locks/uv.toml

lock: $(INSTALLED) ## write locks/*.lock anew: the newest versions that pyproject.toml allows, with their hashes
	$(LOCK) --extra gguf --constraints locks/torch.txt --output-file locks/packages.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["tpu"])' \
		| $(LOCK) --no-deps --output-file locks/tpu.lock -
	$(LOCK) --extra dev --no-generate-hashes --constraints locks/torch.txt --constraints locks/packages.lock \
		--output-file locks/development.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))' \
		| $(LOCK) --output-file locks/build.lock -

# --- measuring: bench, llama, tpu-check ---

TPU_CHECK := .libtpu

bench: $(INSTALLED) ## measure the engine beside eager transformers, prompts, each feature, and the pauses of the router; needs a quiet machine and three quarters of an hour
	@$(BIN)/python -m tpu_tgi.demo_model $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.start_up $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.engine_speed --json build/engine_speed.json $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.prompt_speed $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.speculation_speed $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.speculation_speed --batch-sizes 1 --drafts 16 $(DEMO_MODEL)
	@$(BIN)/python -m benchmarks.feature_price $(DEMO_MODEL)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.router_pauses $(DEMO_MODEL)

LLAMA := .venv-llama

llama: $(LLAMA)/.installed ## build llama.cpp in .venv-llama, which `make bench` then measures too; needs a C++ compiler

$(LLAMA)/.installed: pyproject.toml | $(INSTALLED)
	rm -rf $(LLAMA)
	$(BIN)/uv venv --quiet --python $(BIN)/python $(LLAMA)
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(BIN)/uv pip install --quiet --python $(LLAMA)/bin/python --group llama
	touch $@

tpu-check: $(INSTALLED) $(TPU_CHECK)/.installed ## compile the programs with the TPU compiler and judge the result
	@PYTHONPATH=$(TPU_CHECK) $(BIN)/python -m benchmarks.tpu_check
	@PYTHONPATH=$(TPU_CHECK) $(BIN)/python -m benchmarks.tpu_check_chips

# Beside the environment and not in it, where JAX would look for a TPU at each start.
$(TPU_CHECK)/.installed: pyproject.toml
	rm -rf $(TPU_CHECK)
	$(BIN)/python -m pip install --quiet --no-deps --target $(TPU_CHECK) \
		"$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["tpu-check"])')"
	touch $@
