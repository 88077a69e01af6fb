# Every target sets up a fresh machine by itself; all that is needed is Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile \
	--constraint constraints.txt
# Where Python itself may not (PYTHONDONTWRITEBYTECODE), every start would compile all anew. pip does
# it on one core, tests of libraries and some hundred models of transformers included, and leaves
# out what is editable.
COMPILE := $(BIN)/python -m compileall -q bncheck && { \
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/|transformers/models/' $(VENV)/lib || true; }

.PHONY: demo test lint types unit benchmark comparison docs dist fuzz hostile audit lower-bounds clean

# A demo that finds faults is a demo that works: exit code 1 means "findings", 2 is a failure.
demo: $(VENV)/.demo
	$(BIN)/bncheck inspect -- sample_models/*.pt sample_models/healthy.onnx || test $$? -eq 1

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy --num-workers 2

# A worker for each core. On two cores a third makes every test dearer by more than the waiting that
# it fills (4:12 and 4:34 minutes of the same tests). pytest keeps what it makes of the tests, which
# is half of what collecting them takes.
unit: export PYTHONDONTWRITEBYTECODE :=
unit: $(VENV)/.dev
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

benchmark: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks

# With BatchNorm and without, on real digits: docs/landscape.md shows what it writes. Two minutes.
comparison: $(VENV)/.dev
	$(BIN)/python -m sample_models.comparison

# The site, in build/site; `.venv/bin/mkdocs serve` shows it while it is written.
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# Coverage-guided fuzzing, so many seconds a reader.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.dev
	$(PIP) --editable '.[fuzz]'
	for reader in $$($(BIN)/python -m tests.fuzz); do \
		echo "$$reader"; $(BIN)/python -m tests.fuzz $$reader $(FUZZ_SECONDS) || exit 1; done

# Every hostile file through the console script: some minutes.
hostile: $(VENV)/.dev
	$(BIN)/python -m tests.hostile

# Known faults in what is installed.
audit: $(VENV)/.dev
	$(PIP) pip-audit
	$(BIN)/pip-audit --skip-editable

# The oldest dependencies that pyproject.toml admits, without torch, read what torch has written.
LOWEST := .venv-lowest
lower-bounds: $(VENV)/.dev
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install \
		--constraint tests/lower-bounds.txt --editable . pytest pytest-xdist hypothesis jsonschema
	$(BIN)/python -m tests.zoo $(LOWEST)/zoo
	BNCHECK_ZOO=$(CURDIR)/$(LOWEST)/zoo $(LOWEST)/bin/python -m tests.lower_bounds

# What a release consists of, built and checked: the workflow runs the same and then publishes.
RELEASE := .venv-release
dist: pyproject.toml
	$(PYTHON) -m venv --clear $(RELEASE)
	$(RELEASE)/bin/python -m pip --disable-pip-version-check --quiet install build twine
	rm -rf dist
	$(RELEASE)/bin/python -m build --outdir dist
	$(RELEASE)/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(RELEASE)/installed
	$(RELEASE)/installed/bin/python -m pip --disable-pip-version-check --quiet install dist/*.whl
	$(RELEASE)/installed/bin/bncheck inspect sample_models/healthy.safetensors
	$(RELEASE)/bin/python -m pip --disable-pip-version-check --quiet install cyclonedx-bom
	$(RELEASE)/bin/cyclonedx-py environment --output-file dist/bncheck.cdx.json \
		--output-reproducible $(RELEASE)/installed/bin/python

clean:
	rm -rf $(VENV) $(LOWEST) $(RELEASE) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) --editable .
	$(COMPILE)
	touch $@

$(VENV)/.dev: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	$(COMPILE)
	touch $@ $(VENV)/.demo
