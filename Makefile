# make demo     two edits of rendered faces, end to end: timesteps, distillation, report
# make test     the tests                     make lint    ruff, mypy, clang-format
# make bench    the benchmarks and their tables          make format  apply the formatters
# make gpu      build, test, sanitize, measure  make docs-check  run the commands of the documentation
#               the CUDA kernels, on a GPU
# make docs     the documentation site into build/site; warnings and dead links are errors
# make docs-links   the links to other sites; needs a network
# make hub-check    the tests of the hub once more, with huggingface_hub 1.x
# make sanitize the ops' tests under the address and undefined-behavior sanitizers
# make emulate  the CUDA kernels: compiled, then run on the CPU, plainly and under sanitizers
# make kernel-table   registers and occupancy of the CUDA kernels, into docs/
# make wheel    one wheel with CPU and CUDA kernels into dist/, and one with the weights of each
#               embedded domain; needs nvcc, but no GPU
# make wheel-check   the same, and their tests in an environment of their own
# make clean    remove what make made
#
# Every target does its own set-up in .venv: torch, the compiled extension, the dependencies. Only
# Python 3.10-3.12 (with venv) is required; without a C++ compiler the reference ops are used.
#
# TORCH      which torch to install, as pip takes it. Default: the CPU build of torch 2.13. Others:
#            make demo TORCH=torch==2.12.0      make demo TORCH="torch --index-url https://..."
# PYTHON     the interpreter for .venv. Default: the first of python3, python3.12, .11, .10 that fits.
# ARGS       more arguments: make demo ARGS="--out runs/mine"   make test ARGS="-k hqs"
# SDD_FAST_NATIVE=0   leave the compiled extension out.
# SDD_FAST_CUDA=0|1   leave the CUDA kernels out, or compile them: by default where nvcc is and
#                     TORCH is a CUDA build.
# OTHER_TORCH         what make wheel-check tries the wheel beside, as pip takes it. Default: the oldest
#                     torch that is supported (a download of 0.5 GB); "this": that of .venv.
# OTHER_PYTHON        ... with another Python, or beside what that environment has.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport MAKEFLAGS  # of make -j: ninja would look for make's job server, and not find it

ifeq ($(origin TORCH),undefined)
CPU_TORCH := torch==2.13.0
endif
WANTED := $(or $(TORCH),$(CPU_TORCH) from a CPU build); native: $(or $(SDD_FAST_NATIVE),where possible); \
	CUDA: $(or $(SDD_FAST_CUDA),with a CUDA build of torch) $(SDD_FAST_CUDA_ARCHITECTURES)
export TORCH WANTED

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUIET := --quiet --no-input
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done)
PYTHON := $(PYTHON)

# What the compiled extension and the installed metadata are made from.
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
CPP := $(shell find csrc tests/cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help demo test lint format bench gpu docs docs-links docs-check hub-check sanitize \
	emulate kernel-table wheel wheel-check clean FORCE
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# --- set-up, each step done once ----------------------------------------------------------------

$(DONE)/venv:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(FITS)' 2>/dev/null; then \
	  p="$(or $(PYTHON),python3)"; \
	  echo "sdd_fast needs Python 3.10, 3.11 or 3.12; $$p is: $$($$p --version 2>&1 | tail -1)" >&2; \
	  echo "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if [ ! -x $(BIN)/python ]; then \
	  echo "==> Creating $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "python -m venv failed; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }; fi
	@echo "==> Installing the build tools (setuptools, cmake, ninja)"
	@$(PIP) install $(QUIET) "setuptools>=77" "cmake>=3.25" ninja
	@mkdir -p $(DONE) && touch $@

# Changes when another torch, or native code on or off, is asked for.
$(DONE)/wanted: $(DONE)/venv FORCE
	@echo "$$WANTED" | cmp -s - $@ || echo "$$WANTED" > $@

# By default a CPU build: on Linux torch==2.13.0+cpu where the configured package index has it, else
# from PyTorch's CPU index (PyPI's own Linux wheel brings gigabytes of CUDA libraries). Elsewhere
# PyPI's wheel is a CPU build. TORCH is expanded unquoted: it may contain pip's options.
$(DONE)/torch: $(DONE)/wanted
ifndef CPU_TORCH
	@echo "==> Installing $$TORCH"
	@$(PIP) install $(QUIET) $$TORCH
else
	@echo "==> Installing the CPU build of $(CPU_TORCH) (about 200 MB)"
	@if [ "$$(uname -s)" != Linux ]; then $(PIP) install $(QUIET) $(CPU_TORCH); else \
	  $(PIP) install $(QUIET) $(CPU_TORCH)+cpu 2>$(DONE)/torch.log || \
	  $(PIP) install $(QUIET) $(CPU_TORCH) --index-url https://download.pytorch.org/whl/cpu || { \
	    cat $(DONE)/torch.log >&2; \
	    echo "No CPU build of torch 2.13 was found. Name another: make TORCH=... TARGET" >&2; \
	    exit 1; }; fi
endif
	@touch $@

$(DONE)/package: $(DONE)/torch $(SOURCES)
	@echo "==> Building the extension and installing sdd_fast with its dependencies"
	@$(PIP) install $(QUIET) --no-build-isolation -e .
	@$(BIN)/python -c 'from sdd_fast._build_info import build_info as f; i = f(); print( \
	  "    native kernels:", i["cpu_level"] or "none, " + i["native_missing"])'
	@touch $@

$(DONE)/dev: $(DONE)/torch $(SOURCES)
	@echo "==> Building the extension and installing sdd_fast with its development tools"
	@$(PIP) install $(QUIET) --no-build-isolation -e '.[dev]'
	@touch $@ $(DONE)/package

# --- what one does with it ----------------------------------------------------------------------

demo: $(DONE)/package
	@echo "==> sdd demo $(ARGS)"
	@$(BIN)/sdd demo $(ARGS)

test: $(DONE)/dev
	@echo "==> pytest"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n auto --maxprocesses 8 \
	  --dist worksteal --durations=60 --durations-min=4 $(ARGS)

lint: $(DONE)/dev
	@echo "==> ruff, mypy, clang-format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(DONE)/dev
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CPP)

bench: $(DONE)/dev
	@echo "==> Benchmarks into benchmarks/results/"
	@$(BIN)/python -m pytest -q benchmarks $(ARGS)
	@$(BIN)/python benchmarks/tables.py

# On a GPU, without network access and without .venv: with a Python that has a CUDA build of torch.
GPU_PYTHON ?= $(or $(shell for p in $(BIN)/python python3; do $$p -c \
	'import sys, torch; sys.exit(not torch.version.cuda)' 2>/dev/null && { echo $$p; break; }; \
	done),python3)
gpu:
	@$(GPU_PYTHON) tools/gpu_suite.py $(ARGS)

SPHINX = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m sphinx -q -d build/doctrees
docs: $(DONE)/dev
	@echo "==> The documentation site into build/site"
	@rm -rf build/site
	@$(SPHINX) -W --keep-going docs build/site
	@$(BIN)/python tools/check_site.py build/site

docs-links: $(DONE)/dev
	@$(SPHINX) -b linkcheck -D nb_execution_mode=off docs build/links

docs-check: $(DONE)/dev
	@$(BIN)/python tools/check_docs.py $(ARGS)

# The environment has one huggingface_hub; the other one that is supported goes before it.
$(DONE)/hub-1: $(DONE)/dev
	@echo "==> Installing huggingface_hub 1.x beside .venv's"
	@$(PIP) install $(QUIET) --upgrade --target build/huggingface_hub-1 "huggingface_hub>=1.31,<2"
	@touch $@

hub-check: $(DONE)/hub-1
	@echo "==> The tests of the hub with huggingface_hub 1.x"
	@PYTHONPATH=build/huggingface_hub-1 $(BIN)/python -c \
	  'import huggingface_hub as h; assert h.__version__.startswith("1."), h.__version__'
	@PYTHONPATH=build/huggingface_hub-1 $(BIN)/python -m pytest -q $(ARGS) \
	  tests/hub/test_names.py tests/hub/test_editor_on_hub.py tests/hub/test_push.py

sanitize: $(DONE)/dev
	@echo "==> The kernels under the address and undefined-behavior sanitizers"
	@$(BIN)/python tools/sanitize.py $(ARGS)

emulate: $(DONE)/dev
	@echo "==> The CUDA kernels: compiled for every GPU, run on the CPU"
	@$(BIN)/python tools/kernel_table.py --check
	@$(BIN)/python tools/emulate.py $(ARGS)

kernel-table: $(DONE)/dev
	@$(BIN)/python tools/kernel_table.py
wheel: $(DONE)/torch
	@echo "==> One wheel for CPU and GPU, and one with the weights of each domain, into dist/"
	@rm -rf build/wheel && rm -f dist/sdd_fast*.whl
	@SDD_FAST_NATIVE=1 SDD_FAST_CUDA=1 SDD_FAST_CUDA_ARCHITECTURES= \
	  $(PIP) wheel $(QUIET) --no-deps --no-build-isolation --wheel-dir build/wheel .
	@$(BIN)/python tools/split_wheel.py build/wheel/sdd_fast-*.whl dist

wheel-check: $(DONE)/dev wheel
	@echo "==> The wheels in an environment of their own"
	@SDD_FAST_WHEEL=$$(echo dist/sdd_fast-*.whl) OTHER_TORCH="$(OTHER_TORCH)" \
	  OTHER_PYTHON="$(OTHER_PYTHON)" $(BIN)/python -m pytest -q tests/test_wheel.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info sdd_fast/_C.abi3.so sdd_fast/_native_build.json
	rm -rf docs/generated
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
