# Two commands: `make train` and `make test`. Both make .venv on first use.
PYTHON ?= python3
VENV ?= .venv
PRESET ?= vae-digits
ARGS ?=

BIN := $(VENV)/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
INSTALLED := $(VENV)/.installed

.PHONY: train test test-all lint types unit slow notebooks clean

train: $(INSTALLED)
	$(BIN)/python scripts/train.py $(PRESET) $(ARGS)

# Types beside the tests: they keep one core busy.
test: lint
	$(MAKE) --no-print-directory -j 2 types unit
	$(MAKE) --no-print-directory notebooks

test-all: test slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m slow

notebooks: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -p no:jaxtyping -o addopts="" -o filterwarnings="" --nbmake --nbmake-timeout=120 $(NOTEBOOKS)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing pinned versions into $(VENV) (about a minute, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV)
