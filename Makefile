# Every target sets up what it needs. `make` alone lists the targets.

# the first of these that is Python 3.11 or newer makes the environment
PYTHON ?= python3 python3.13 python3.12 python3.11
# pytest processes of the default suite, one thread each: half of the tests for each of two, and the
# rest of the slower one is shared; neighbours have fixtures in common
WORKERS ?= 2
# more arguments for the command of a target: make test ARGS="-k packing"
ARGS ?=

# where the processor multiplies in bfloat16, the demo trains in it: in 0.6 of the time
PRECISION = $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && \
	echo --trainer.precision bf16-mixed)

VENV := .venv
BIN := $(VENV)/bin
# an environment does not work in another folder: its mark names the folder
READY := $(VENV)/ready-$(shell pwd | cksum | cut -d' ' -f1)

# uv and pip-audit, in an environment of their own
TOOLS := $(VENV)/tools
# every file of a version has its sha256 in the lock, for all platforms; versions there stay
COMPILE = $(TOOLS)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock'

.PHONY: help setup demo lint check test test-slow fuzz test-gpu lock audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv with everything in it, pinned by constraints.txt with its hashes

demo: setup ## run the quickstart: trim SmolLM2-135M on ICD-10-CM, 10 to 30 minutes on 2 cores
	$(BIN)/trimlab fit --config experiments/quickstart.yaml $(PRECISION) $(ARGS)

lint: setup ## ruff, pyright and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

# An index that lists the vulnerabilities of this old release has such data; a mirror may have none.
check: lint ## make lint, then make audit where PyPI answers
	@if $(BIN)/python -c "import json, urllib.request as web; \
		page = web.urlopen('https://pypi.org/pypi/urllib3/1.26.5/json', timeout=10); \
		assert json.load(page)['vulnerabilities']" 2>/dev/null; \
	then $(MAKE) --no-print-directory audit; \
	else echo "PyPI's known vulnerabilities are out of reach: versions were not audited"; fi

test: lint ## make lint, then the default tests: no network, at most 10 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: setup ## the slow tests: a real model on real rows (../shared/data)
	$(BIN)/pytest -m slow $(ARGS)

fuzz: setup ## try mutated inputs of every kind, and count them: ARGS="--minutes 60"
	$(BIN)/python -m tests.fuzzing $(ARGS)

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

# The CPU build of torch is not on PyPI: add its hash by hand when torch changes.
lock: $(TOOLS) ## write constraints.txt and tools.txt anew: ARGS="--upgrade-package ruff"
	$(COMPILE) pyproject.toml --extra all -o constraints.txt $(ARGS)
	$(COMPILE) --group tools -o tools.txt $(ARGS)

audit: $(TOOLS) ## known vulnerabilities of the pinned versions, from PyPI
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --progress-spinner off \
		-r constraints.txt -r tools.txt || \
		{ echo "make audit: a known vulnerability, or PyPI tells nothing of a version: see above" >&2; exit 1; }

$(TOOLS): tools.txt
	$(firstword $(PYTHON)) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install -qq --disable-pip-version-check -r tools.txt
	@touch $(TOOLS)

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# one package of a lock, with its hashes, as a file of requirements
locked = awk '/^$(1)==/,!/\\$$/' $(2)

# A first or interrupted installation starts from an empty environment. Then pip refuses every file
# without a hash in the locks, those that only build others too: first of all a newer pip, which
# takes hashes from a constraints file. That one would prefer PyPI's torch, whose hashes the index
# tells, to one on this machine's disk: so torch is chosen first, and its hash checked after.
$(READY): pyproject.toml constraints.txt tools.txt
	@set -e; \
	for python in $(PYTHON) none; do \
		if [ $$python = none ]; then \
			echo "trimlab needs Python 3.11 or newer, and none of these is: $(PYTHON)." \
				"Install it, or name it: make setup PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			break; \
		fi; \
	done; \
	if [ ! -e "$@" ]; then \
		echo "creating $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV); \
	fi
	@echo "installing the versions of constraints.txt into $(VENV) (2.5 GB, some minutes)"
	@$(call locked,pip,tools.txt) | $(INSTALL) -r /dev/stdin
	@rm -rf $(VENV)/torch
	@$(BIN)/python -m pip download -qq --no-deps -d $(VENV)/torch \
		$$(grep -o '^torch==[^ ]*' constraints.txt)
	@$(call locked,torch,constraints.txt) | \
		$(INSTALL) --no-deps --no-index --find-links $(VENV)/torch -r /dev/stdin
	@rm -rf $(VENV)/torch
	@$(INSTALL) --no-deps --build-constraint tools.txt -e .
	@$(INSTALL) --build-constraint tools.txt -c constraints.txt 'trimlab[all]'
	@$(BIN)/python -m pip check
	@$(BIN)/python -c 'from trimlab.model.embedded import fetch; fetch("smollm2-135m")'
	@touch "$@"
