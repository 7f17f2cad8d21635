# Each target makes the environment that it needs; nothing has to be installed by hand.

# The oldest supported Python first: it is what most wheels are built for.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test check bench crash-test gpu-test clean python

help: ## Show this.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: python ## Make .venv with the core, the plugins and vLLM, or bring it up to date.
	@$(PYTHON) tools/make_venv.py .venv

quickstart: venv ## Run the pin example against real vLLM; MODEL=... names a model.
	@.venv/bin/python -m examples.pin.quickstart

test: python ## Run every test from nothing, against wheels; PYTEST_ARGS=... are passed on.
	@$(PYTHON) tools/run_tests.py $(PYTEST_ARGS)

check: python ## Run ruff, mypy and import-linter.
	@$(PYTHON) tools/run_checks.py

bench: venv ## Run the benchmarks; BENCH_ARGS=... are passed on.
	@.venv/bin/python -m benchmarks $(BENCH_ARGS)

crash-test: venv ## Lose power, and kill disks, engines and controllers, thousands of times; CRASH_ARGS=... are passed on to the kills.
	@.venv/bin/python -m tests.disk.lives
	@.venv/bin/python -m tests.disk.crash_run $(CRASH_ARGS)
	@.venv/bin/python -m tests.pins.kill_run $(CRASH_ARGS)

gpu-test: python ## Check the CUDA page mover byte by byte on this machine's GPU, and time it.
	@REQUIRE_GPU=1 $(PYTHON) tools/run_tests.py tests/gpu
	@build/test/venv/bin/python benchmarks/cuda_mover.py

clean: ## Remove what the other targets made.
	rm -rf .venv build .quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
