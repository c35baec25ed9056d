# make demo    play the whole story on real data
# make test    everything that must hold: lint, types, import contracts, unit to acceptance tests
# make unit    the fast tests only
# make torture   kills, power cuts, full disks, jumping clocks, lost databases (root for some of them)
# make simulate  the worker loop under injected faults, SEEDS=n histories (default 10000)
# make bench   Sidestage's own benchmarks (prints ratios; results are recorded in docs/benchmarks.md)
# make bench-stream    streams beside other stream engines and Go channels (1.4 GB; needs Go)
# make bench-orchestrators   beside other orchestrators, each in an environment of its own (0.6 GB; an hour or
#                            more); OPTIONS="--quick --peers luigi,dbos" for less, OPTIONS=--help for all options
# make lock    refresh requirements.lock

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: system torture simulate demo test unit lint types imports example bench bench-orchestrators bench-stream lock clean newest

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sidestage needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python tools/demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit tests/contract -q

# Programs that some tests use; in CI one that is missing is a failure.
system: $(STAMP)
	$(BIN)/python tools/system.py

# What has only one thing to do at a time stands side by side.
test: lint imports system
	$(MAKE) -j 2 types example
	$(if $(CI),SIDESTAGE_REQUIRE_TOOLS=1) $(BIN)/python -m pytest -q -n 2 tests/unit tests/contract
	$(if $(CI),SIDESTAGE_REQUIRE_TOOLS=1) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
		--ignore tests/unit --ignore tests/contract
	$(MAKE) newest

example: $(STAMP)
	cd examples/flights && ../../$(BIN)/python -m pytest -q

# The unit tests also run on the newest interpreter found beside the one in use.
newest: $(STAMP)
	$(BIN)/python tools/newest.py

torture: $(STAMP)
	$(BIN)/python -m torture

SEEDS ?= 10000

simulate: $(STAMP)
	$(BIN)/python -m sidestage.testing.simulate --seeds $(SEEDS)

bench: $(STAMP)
	$(BIN)/python benchmarks/all.py

bench-orchestrators: $(STAMP)
	$(BIN)/python -m benchmarks.orchestrators $(OPTIONS)

bench-stream: $(STAMP)
	$(BIN)/python -m benchmarks.stream $(OPTIONS)

lock:
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock' \
		--output-file requirements.lock

clean:
	rm -rf $(VENV) .demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
