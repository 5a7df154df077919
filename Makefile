# The commands a person types. Everything happens in .venv, from the versions in requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
SPACE ?= search_spaces/quick.yaml

.PHONY: help quickstart install test test-rest check format acceptance faults bench bench-service \
	bench-quote docs notebook screenshots lock clean

help:
	@echo "make quickstart  install into .venv, then a small search on real molecules (5 to 10 minutes on two AMD EPYC cores)"
	@echo "make test        style, types and the tests that need no Ray, PostgreSQL or browser"
	@echo "make test-rest   the other tests, with the wheel outside the checkout"
	@echo "make acceptance  the wheel, and the tutorial as a person types it"
	@echo "make faults      kills, full disks, lost databases (under an hour on two AMD EPYC cores)"
	@echo "make bench       seconds a training step"
	@echo "make bench-service  milliseconds of each database call of a trial"
	@echo "make bench-quote  how accurate the estimated seconds of an epoch are"
	@echo "make docs        the documentation as a site, in site/"
	@echo "make notebook    the notebook in docs/, run again"
	@echo "make screenshots the pictures in docs/images, from a real search (about ten minutes)"
	@echo "make lock        update requirements.lock to the newest allowed versions"

quickstart: install
	$(BIN)/hpsearch launch $(SPACE)

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "hpsearch needs Python 3.11 or newer; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# A test starts many commands, and each would compile the package's modules again.
test test-rest: export PYTHONDONTWRITEBYTECODE =

test: check
	$(BIN)/python -m pytest -m "not slow and not acceptance and not faults" -n 2 --dist worksteal --max-worker-restart 0 --durations 20

# A file's tests share what takes long to make, such as a search: one process runs all of them. These
# tests often wait for other processes, so three run at a time on two cores.
test-rest: install
	$(BIN)/python -m pytest -m "slow and not acceptance and not faults or wheel" -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 40

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

acceptance: install
	$(BIN)/python -m pytest -m acceptance --timeout 1800

faults: install
	PYTHONPATH=tests $(BIN)/python -m faults --json faults.json
	$(BIN)/python -m pytest -m faults --timeout 1800

bench: install
	$(BIN)/python benchmarks/step.py --json bench.json

bench-service: install
	$(BIN)/python benchmarks/service.py --json bench-service.json
	$(BIN)/python benchmarks/large.py --json bench-large.json
	$(BIN)/python benchmarks/decisions.py --json bench-decisions.json

bench-quote: install
	$(BIN)/python benchmarks/quote.py --json bench-quote.json

docs: install
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs . site
	cp site/README.html site/index.html

notebook: install
	PYTHONPATH=tests $(BIN)/python tests/notebook.py

screenshots: install
	PYTHONPATH=tests $(BIN)/python tests/screenshots.py

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet '.[formats,tensorboard]' --group dev
	.venv-lock/bin/python -m pip freeze --all --exclude hpsearch --exclude pip | sed 's/+cpu//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv build dist
