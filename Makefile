# Two commands do everything: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-linux test-large lint bench fidelity reference pictures fuzz attack clean

demo: .venv/.installed
	$(BIN)/hv demo

test: .venv/.tested
	$(BIN)/pytest -n auto --dist worksteal
	@$(MAKE) --no-print-directory lint

# Programs nobody here wrote, from Debian's packages; `make test` runs them too, memtest86+ over less memory.
test-linux: .venv/.tested
	$(BIN)/pytest -n auto --dist worksteal -rs --durations=0 --full-size tests/linux

# The tests that have two sizes, at the large one: `make test` runs the small one.
test-large: .venv/.tested
	$(BIN)/pytest -n auto --dist worksteal --full-size tests/lab/test_cluster.py tests/lab/test_first_exit.py tests/linux

lint: .venv/.tested
	$(BIN)/ruff check hv tests
	$(BIN)/mypy

bench: .venv/.installed
	$(BIN)/hv bench

fidelity: .venv/.tested
	$(BIN)/python -m tests.fidelity

reference: .venv/.tested
	$(BIN)/python -m tests.reference

pictures: .venv/.tested
	$(BIN)/python -m tests.pictures

# make fuzz SEED=7 SECONDS=300
SEED ?= 0
SECONDS ?= 60
fuzz: .venv/.tested
	$(BIN)/python -m tests.hypervisor.fuzz --seed $(SEED) --seconds $(SECONDS)

# make attack SEED=7 ATTEMPTS=10000: a guest against the IOMMU, with its own device; a device against its guest
ATTEMPTS ?= 10000
attack: .venv/.tested
	$(BIN)/python -m tests.iommu.device_attack --seed $(SEED) --attempts $(ATTEMPTS)
	$(BIN)/python -m tests.iommu.unit_attack --seed $(SEED) --attempts $(ATTEMPTS)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hvlab needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -m compileall -q hv  # else the first start compiles every module, and each one on a read-only tree
	@touch $@

.venv/.tested: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
