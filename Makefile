# `make demo` and `make test` are all a newcomer needs; each installs what it needs into .venv first.
SHELL := /bin/bash
PY := .venv/bin/python
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seeds test test-slow test-faults test-min test-paddle26 test-gpu test-paddleseg \
  test-reference doctor bench bench-step bench-transformers bench-loading bench-evaluation bench-inference pages parity docs types lint release clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup:  ## create .venv with Paddle for this machine (CPU or GPU); quick when nothing changed
	@tools/setup_env.sh .venv

demo: setup  ## train source-only, AdaptSegNet, then self-training on a generated street-scene pair and compare them (a few minutes)
	@$(PY) tools/demo.py

demo-seeds: setup  ## the demo's recipe over three seeds, with its table in checkpoint/toy/seeds.md (slow)
	@$(PY) tools/demo.py --seeds 0,1,2 --table checkpoint/toy/seeds.md

test:  ## run the test suite
	@tools/setup_env.sh .venv test
	$(PY) -m pytest -n $(JOBS) -m "not slow" tests

test-faults:  ## kill, interrupt, starve and corrupt real trainings (minutes)
	@tools/setup_env.sh .venv test
	EXAMPLES=400 $(PY) -m pytest tests/faults tests/test_soak.py tests/test_dependencies.py

test-min:  ## run the test suite on the lowest versions allowed, in .venv-min (on Python 3.9 where it is there)
	@PYTHON=$(firstword $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python) python3.9) \
	  tools/setup_env.sh .venv-min test tests/constraints-min.txt
	.venv-min/bin/python -m pytest -n $(JOBS) -m "not slow" tests

test-slow:  ## run the checks that take minutes
	@tools/setup_env.sh .venv test
	$(PY) -m pytest -m slow -s tests

test-gpu:  ## run on a GPU what only a GPU can show (written without one)
	@tools/setup_env.sh .venv test
	TEST_DEVICE=gpu $(PY) -m pytest -m gpu tests

doctor: setup  ## check in three minutes whether this machine trains right, and how fast
	@$(PY) tools/doctor.py

bench:  ## measure training against plain PyTorch and plain Paddle in turn (about 5 minutes on a quiet machine)
	@tools/setup_env.sh .venv test
	$(PY) benchmarks/training.py

bench-step: setup  ## measure a toy step against Paddle's own operations
	$(PY) benchmarks/step.py configs/toy/adaptsegnet_multi.yml configs/toy/advent.yml configs/toy/adversarial_v3plus.yml

bench-transformers:  ## measure steps of DAFormer, VFM-UDA, DACS and HRDA against plain PyTorch in turn (over half an hour on a quiet machine)
	@tools/setup_env.sh .venv test
	$(PY) benchmarks/transformers.py

bench-loading: setup  ## measure reading and scoring against the originals' way
	$(PY) benchmarks/loading.py

bench-evaluation:  ## measure whole evaluations against plain Paddle and plain PyTorch
	@tools/setup_env.sh .venv test
	$(PY) benchmarks/evaluation.py

bench-inference:  ## measure predictions of transformers, eager and exported, against eager PyTorch in turn
	@tools/setup_env.sh .venv test
	$(PY) benchmarks/inference.py

test-reference:  ## load files that transformers and timm write, in .venv-reference
	@tools/setup_env.sh .venv-reference reference
	.venv-reference/bin/python -m pytest tests/test_reference_weights.py

test-paddle26:  ## run the test suite on Paddle 2.6.2 in .venv-paddle26
	@tools/setup_env.sh .venv-paddle26 test tests/constraints-paddle26.txt
	.venv-paddle26/bin/python -m pytest -n $(JOBS) -m "not slow" tests

test-paddleseg:  ## install PaddleSeg into .venv and run the tests with its networks (minutes)
	@tools/setup_env.sh .venv test
	@tools/setup_env.sh .venv paddleseg
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps paddleseg==2.8.0
	$(PY) -m pytest tests/test_paddleseg.py tests/test_models.py

parity:  ## replay every figure of the originals and write how far this project is from each (minutes)
	@tools/setup_env.sh .venv test
	$(PY) tests/parity_table.py

pages: setup  ## write the generated pages of docs/ anew
	@$(PY) tools/write_pages.py

docs:  ## build the searchable site of docs/ in site/, with every link and anchor checked; needs no network to read
	@tools/setup_env.sh .venv docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site/index.html opens by double click, with its search"

types: setup  ## check the package's type hints
	$(PY) -m mypy

lint: setup types  ## check style, formatting and type hints
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

release: setup  ## build the archives of a release, look into them, use the wheel in a fresh environment (uploads nothing)
	$(PY) tools/release.py

clean:  ## remove environments, caches and the toy pair with its runs (never your data or checkpoints)
	rm -rf .venv .venv-paddle26 .venv-min .venv-reference .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf dataset/toy dataset/toy_seed* checkpoint/toy checkpoint/toy_seed*
