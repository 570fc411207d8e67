# s2s-infer: the one entry point for a person.  `make` alone lists the targets.
# The Python package is built by setup.py; the C core and its tests can be built here without Python.

PYTHON ?= python3
CC     ?= cc
VENV   ?= .venv

.PHONY: help demo test build lint format c-test sanitize fuzz bench train clean
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
	$(PYTHON) -m clang_format --version >/dev/null 2>&1 || true
	clang-format --dry-run --Werror $(C_FILES)

format: ## rewrite Python and C files in the project's style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	clang-format -i $(C_FILES)

# ---- C core alone: one object folder per variant, so that flags never mix ---------------------------

VARIANT ?= debug
B := build/c/$(VARIANT)
MACHINE := $(shell uname -m)
C_FILES := $(shell find csrc tests/c tools -name '*.[ch]' 2>/dev/null)

SOURCES := $(shell find csrc -name '*.c')
SIMD    := $(addprefix csrc/kernels/,avx2.c avx512.c avx512vnni.c neon.c)
ifeq ($(MACHINE),x86_64)
LEVELS := csrc/kernels/avx2.c csrc/kernels/avx512.c csrc/kernels/avx512vnni.c
else ifneq ($(filter aarch64 arm64,$(MACHINE)),)
LEVELS := csrc/kernels/neon.c
endif
OBJECTS := $(patsubst %.c,$(B)/%.o,$(filter-out $(SIMD),$(SOURCES)) $(filter $(LEVELS),$(SOURCES)))
TESTS   := $(patsubst %.c,$(B)/%,$(wildcard tests/c/test_*.c))
HELPERS := $(patsubst %.c,$(B)/%.o,$(filter-out tests/c/test_%,$(wildcard tests/c/*.c)))

C_FLAGS := -std=c11 -ffp-contract=off -fvisibility=hidden -fPIC -Wall -Wextra -Werror -UNDEBUG -g -MMD -MP
OPT_debug := -O2
OPT_asan  := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
OPT_tsan  := -O1 -fno-omit-frame-pointer -fsanitize=thread
C_FLAGS += $(OPT_$(VARIANT))

AVX2   := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
$(B)/csrc/kernels/avx2.o: LEVEL_FLAGS := $(AVX2)
$(B)/csrc/kernels/avx512.o: LEVEL_FLAGS := $(AVX512)
$(B)/csrc/kernels/avx512vnni.o: LEVEL_FLAGS := $(AVX512) -mavx512vnni

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) $(LEVEL_FLAGS) -Icsrc -c $< -o $@

$(B)/libs2s.a: $(OBJECTS)
	@rm -f $@ && ar rcs $@ $^

$(B)/tests/c/test_%: $(B)/tests/c/test_%.o $(HELPERS) $(B)/libs2s.a
	$(CC) $(C_FLAGS) $^ -lm -lpthread -o $@

.SECONDARY:
-include $(shell find build/c/$(VARIANT) -name '*.d' 2>/dev/null)

c-test: $(TESTS) ## build and run the C unit tests (VARIANT=debug, asan or tsan)
	@set -e; for t in $(TESTS); do echo "$$t"; $$t; done

sanitize: ## the C unit tests under ASan + UBSan + LSan, then under TSan
	$(MAKE) c-test VARIANT=asan
	$(MAKE) c-test VARIANT=tsan

# ---- Measuring and training ---------------------------------------------------------------------------

bench: ## cold start beside CTranslate2 (extra: reference)
	$(PYTHON) tools/bench/cold_start.py

clean: ## remove everything that was built
	rm -rf build dist $(VENV) engine/*.egg-info engine/s2s_infer/*.so
