PYTHON ?= python3

# One thread per test process: PyTorch's small matrix products crawl when more threads than free cores share them.
export OMP_NUM_THREADS ?= 1

.PHONY: check lint format types test slow bench-check

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n auto --dist loadfile

slow:
	$(PYTHON) -m pytest -n auto --dist loadfile -m slow

# Minutes: trains CartPole and Pendulum afresh and compares with the stored results.
bench-check:
	$(PYTHON) -m sb3_trpo_ext.bench check
