# Everything runs in .venv, which is made when it is needed. Arguments: make test ARGS="-k chain -x"
# Another Python than the one found: make setup PYTHON=/opt/python3.13/bin/python3

.PHONY: help setup demo test bench check constraints clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo         run the example workflows on embedded PostgreSQL and NATS'
	@echo 'make test         run the whole test suite'
	@echo 'make bench        measure speed, beside other systems'
	@echo 'make check        lint, formatting, types, import rules'
	@echo 'make setup        only make .venv, with everything in it'
	@echo 'make constraints  pin the newest versions of all packages in constraints.txt'
	@echo 'make clean        remove .venv, caches and build output (the data in .data stays)'

setup:
	@sh .ci/setup

demo: setup
	@.venv/bin/stepweave demo $(ARGS)

test: setup
	@.venv/bin/python -m pytest $(ARGS)

bench: setup
	@.venv/bin/stepweave bench $(ARGS)

check: setup
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo

constraints: setup
	@.venv/bin/python -m venv .venv/uv
	@.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv/uv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --all-extras --upgrade \
		--no-header --no-annotate --output-file .venv/uv/constraints.txt >/dev/null
	@grep -v "sys_platform == 'win32'" .venv/uv/constraints.txt | sed 's/ ;.*//' >constraints.txt

clean:
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
