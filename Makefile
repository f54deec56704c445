PYTHON ?= python3

# One thread per test process: PyTorch's small matrix products crawl when more threads than free cores share them.
export OMP_NUM_THREADS ?= 1

# Of `make gpu`: the folder for speed.json and speed.png, and how the benchmark is run.
GPU_OUT ?= bench-results/gpu
GPU_OPTIONS ?= --threads 1 8 --seconds 200

.PHONY: check lint format types test slow gpu bench-check docs

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

# Minutes, on a machine with a CUDA GPU: the tests marked gpu, then the benchmark's cases for a GPU, whatever the tests
# said. No test of the zoo needs a GPU, and they do not start without RL Zoo.
gpu:
	@status=0; \
	$(PYTHON) -m pytest -m gpu --ignore tests/zoo --durations 10 || status=1; \
	$(PYTHON) -m sb3_trpo_ext.bench speed --gpu $(GPU_OPTIONS) --out $(GPU_OUT) || status=1; \
	exit $$status

# Minutes: trains CartPole and Pendulum afresh and compares with the stored results.
bench-check:
	$(PYTHON) -m sb3_trpo_ext.bench check

# The site, in docs/_build/html. It needs the extra docs.
docs:
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html
