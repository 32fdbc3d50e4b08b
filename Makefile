# Every target works on a bare machine with Python 3.11 to 3.13: it creates .venv on first use and keeps it afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs linkcheck bench clean

# One install for all targets; torch and torchvision come together from the default index.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "residual_lens needs Python 3.11 to 3.13: try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/residual-lens demo

test: lint
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# The site, offline: formulas are MathML, notebooks are run, and a warning is an error.
docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W --keep-going -n -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

# External links; needs a network.
linkcheck: $(VENV)/.installed
	$(BIN)/sphinx-build -b linkcheck -D nb_execution_mode=off -q docs docs/_build/linkcheck

bench: $(VENV)/.installed
	$(BIN)/python -m scripts.benchmark

clean:
	rm -rf $(VENV) demo docs/_build
