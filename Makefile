# s2s-infer: the one entry point for a person.  `make` alone lists the targets.
# The Python package is built by setup.py; the C core and its tests are built without Python too.

PYTHON ?= python3
VENV ?= .venv

.PHONY: help demo test build lint format c-test sanitize bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

demo: $(VENV)/bin/python ## install into .venv and translate one sentence
	$(VENV)/bin/pip install -q . && $(VENV)/bin/s2s-infer translate "今天天气很好"

test: $(VENV)/bin/python ## install into .venv and run the test suite
	$(VENV)/bin/pip install -q ".[test]" && $(VENV)/bin/pytest

build: ## compile the extension in place for PYTHON, incrementally (needs Cython and setuptools)
	$(PYTHON) setup.py -q build_clib build_ext --inplace

lint: ## ruff, mypy, clang-format (extra: dev)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	clang-format --dry-run --Werror $(C_FILES)

format: ## rewrite Python and C files in the project's style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	clang-format -i $(C_FILES)

# ---- C core alone (see tests/c/Makefile) ---------------------------------------------------------

C_FILES = $(shell find csrc tests/c tools -name '*.[ch]')

c-test: ## the C unit tests
	$(MAKE) -C tests/c check

sanitize: ## the C unit tests under ASan + UBSan + LSan, then under TSan
	$(MAKE) -C tests/c check SANITIZE=address,undefined
	$(MAKE) -C tests/c check SANITIZE=thread

# ---- Measuring and training ---------------------------------------------------------------------------

bench: ## speed, load, memory, growth, profile beside CTranslate2 (extras: reference, train; BENCH=--quick)
	$(PYTHON) -m tools.bench $(BENCH)

clean: ## remove everything that was built
	rm -rf build dist $(VENV) engine/*.egg-info engine/s2s_infer/*.so
