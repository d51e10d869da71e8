# One command each: search, test, lint, bench. Every one of them first makes .venv and installs what is missing there,
# pinned by constraints.txt; a second call finds the stamp and starts at once. PYTHON=python3.12 chooses an interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STUDY := results/studies/digits-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help install search test test-slow lint bench clean
help:
	@echo "make search   a short search on digits; ends with a table, a page and an importable network"
	@echo "make test     the tests"
	@echo "make test-slow  the tests that take long"
	@echo "make lint     style, types and which part may import which"
	@echo "make bench    proposals a second; blocks and networks as they run here against stock, dense and torchvision's (minutes)"
	@echo "make clean    removes caches and builds (not .venv, not results/studies)"

install: $(STAMP)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "igcsearch needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(STAMP): pyproject.toml setup.py constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

# A new folder under results/studies (git-ignored) each time, so the checkout stays as it was.
search: $(STAMP)
	$(BIN)/igcsearch search digits --trials 12 --epochs 15 --max-params 20k --workers 2 --seed 0 --out $(STUDY)
	$(BIN)/igcsearch publish $(STUDY) --top 1 --seeds 2 --workers 2 --to $(STUDY)/zoo
	@echo
	@echo "page:    $(STUDY)/report.html"
	@for entry in $(STUDY)/zoo/*/; do \
	    echo "network: $(BIN)/python -c \"import igcsearch; network = igcsearch.load('$${entry%/}'); print(network)\""; done

test: $(STAMP)
	$(BIN)/pytest -q -n 2

# What takes too long for every day: ten kills of real searches, hundreds of networks counted three ways, and so on.
test-slow: $(STAMP)
	$(BIN)/pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.settle
	@echo
	$(BIN)/python -m benchmarks.blocks --quick
	@echo
	$(BIN)/python -m benchmarks.networks --quick --batch 1,64

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	rm -f igcsearch/nn/fused/_kernels*.so
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
