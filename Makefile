# make demo   install and run the demo: synthetic cohorts, shipped weights, a report
# make test   the test suite, without what takes minutes
# make slow   tests that take longer: whole encoders, Ray, Slurm, chaos
# make lint   formatting, lint, types, import contract
# make bench  benchmarks, as JSON

PYTHON ?= python3
BIN := .venv/bin
# The environment is renewed only when what it is made from has changed.
STAMP := .venv/installed-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c 1-16)

.PHONY: demo test slow lint bench

demo: $(STAMP)
	$(BIN)/sonobench demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not slow'

slow: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'slow and not realdata'

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Asked before anything is made.
IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))

$(STAMP):
	@if test -x $(BIN)/python && ! $(BIN)/python -c '$(IS_RECENT)'; then \
		echo "sonobench needs Python 3.11 or newer; .venv has $$($(BIN)/python --version):" \
			"delete the folder .venv and call make again" >&2; \
		exit 1; \
	elif ! test -x $(BIN)/python && ! $(PYTHON) -c '$(IS_RECENT)' 2>/dev/null; then \
		echo "sonobench needs Python 3.11 or newer; $(PYTHON) is" \
			"$$($(PYTHON) --version 2>/dev/null || echo missing):" \
			"name another, as in make test PYTHON=python3.11" >&2; \
		exit 1; \
	fi
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@
