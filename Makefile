# All the set-up there is, on a machine with Python 3.11 or later and make:
#
#   make demo    installs unfuse into .venv and takes examples/poster.jpg apart, into demo/
#   make test    installs what the tests need as well, torch too, and runs them
#
# For developers: make check (style and types), make lowest (the oldest releases that pyproject.toml allows), make clean;
# make page builds the page of unfuse serve anew after a change in web/, which needs Node 20.19 or later.

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PIP := python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0
DEMO := demo

.PHONY: demo test check lowest page clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	@mkdir -p $(DEMO)
	$(BIN)/unfuse decompose examples/poster.jpg \
	  -o $(DEMO)/poster-layers -o $(DEMO)/poster.zip -o $(DEMO)/poster.psd -o $(DEMO)/poster.pptx

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests of what the base install does, with every dependency at its lower bound; others that need torch skip themselves.
lowest: $(BIN)/python
	rm -rf $(LOWEST)
	$(BIN)/python -m venv $(LOWEST)
	$(BIN)/python tests/lowest.py >$(LOWEST)/constraints.txt
	$(LOWEST)/bin/$(PIP) --constraint $(LOWEST)/constraints.txt --editable . pytest hypothesis hatchling
	$(LOWEST)/bin/python -m pytest $(foreach name,parts compose train remix,--ignore tests/test_$(name).py)

page:
	cd web && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) $(LOWEST) $(DEMO) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing unfuse into $(VENV) (about 120 MB to download)"
	@$(BIN)/$(PIP) --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml Makefile | $(BIN)/python
	@echo "Installing unfuse and what its tests need into $(VENV) (with torch: on Linux from PyPI some gigabytes)"
	@$(BIN)/$(PIP) --editable '.[text,train,qwen,edit,corpus,dev]' '$(TORCH)'
	@touch $(VENV)/demo.stamp $@

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Python 3.11 or later with its venv module is needed. On Debian and Ubuntu: apt install python3-venv;" \
	  "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1
