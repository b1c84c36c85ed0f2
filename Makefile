# make demo: draws a smiling cat.  make test: runs every test.  Both make .venv first, and keep it.
# make golden: what PyTorch computes from the shipped weights, anew; after they have changed.

# The first Python that the dependencies have wheels for; another: make demo PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test golden clean

demo: $(VENV)/.installed
	@mkdir -p out
	$(BIN)/mlxflow generate "smiling cat" --seed 7 -o out/smiling-cat.png
	@echo "The picture is $$(ls -t "$(CURDIR)"/out/smiling-cat*.png | head -n 1)"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --durations=10

golden: $(VENV)/.installed-test
	$(BIN)/python -m tests.parity.golden

# Stamps: the environment is made anew only when pyproject.toml has changed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mlxflow needs Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) out build dist .pytest_cache .ruff_cache .hypothesis
	find mlxflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
