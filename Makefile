# `make demo` and `make test` set up everything they need in .venv; neither needs the other.
PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
BIN         := $(VENV)/bin
PIP         := $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check
PYTEST      := $(BIN)/python -m pytest
# One thread per process: the processes take the cores.
SERIAL      := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
ASV         := $(BIN)/asv --config benchmarks/asv.conf.json

.PHONY: demo test doctest check format docs bench bench-check clean

demo: $(VENV)/.demo
	$(BIN)/slq demo

test: $(VENV)/.test
	$(SERIAL) $(PYTEST) -n auto -m "not slow"

# The code blocks of README.md and docs/ are programs: run them.
doctest: $(VENV)/.test
	$(SERIAL) $(PYTEST) -n auto --dist loadfile README.md docs
	$(SERIAL) $(PYTEST) --doctest-modules slq backends

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# asv wants a commit to file the results under; `existing` measures the installed working tree.
bench: $(VENV)/.bench
	$(ASV) machine --yes
	$(ASV) run --quick --show-stderr \
	  --environment existing:$(abspath $(BIN)/python) --set-commit-hash $$(git rev-parse HEAD)

$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.%: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -q -c $(CONSTRAINTS) -e '.[$*]'
	touch $@

# Imports every benchmark without running it.
bench-check: $(VENV)/.bench
	$(ASV) check --environment existing:$(abspath $(BIN)/python)

clean:
	rm -rf $(VENV) slq-demo docs/_build .asv .pytest_cache .mypy_cache .ruff_cache
