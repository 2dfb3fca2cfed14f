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

# Asked before anything is made: of the environment that is there, else of the one to be made from.
$(STAMP):
	@if test -x $(BIN)/python; then python=$(BIN)/python; else python=$(PYTHON); fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "sonobench needs Python 3.11 or newer; $$python is" \
			"$$("$$python" --version 2>/dev/null || echo missing)." \
			"Name another: make $(MAKECMDGOALS) PYTHON=python3.11 (an older .venv is to be deleted)" >&2; \
		exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@
