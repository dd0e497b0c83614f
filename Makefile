# make run       serves with systemconfig.toml, making .venv first if need be
# make venv      makes .venv, with the command meterd in it, and starts nothing
# make test      ruff, mypy strict and all tests
# make bench     the table of tests/benchmarks/ and docs/plots/ (BENCH=--quick for a trial, --full, --help)
# make torture   the long tier of tests/system/torture/, for hours (TORTURE=--help)
# make lock      pins what meterd runs and is built with, anew (LOCK=--upgrade for the newest)
# make binary    dist/meterd, one file that needs no Python
# make dist      dist/, the source distribution and the wheel that is built of it
# make release-check   all of that, and all tests, from a clean clone of what is committed
# make docs      docs/configuration.md, of systemconfig.toml and the types
# make image     a container image with docker or podman

VENV ?= .venv
PYTHON ?= python3
CONFIG ?= $(or $(METERD_CONFIG),systemconfig.toml)
IMAGE ?= meterd
BUILD ?= build
DIST ?= dist

.PHONY: run venv check test bench torture lock docs image binary dist release-check clean

run: $(VENV)/.run
	$(VENV)/bin/meterd serve --config $(CONFIG)

venv: $(VENV)/.run

check: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/bandit --quiet --recursive --configfile pyproject.toml meterd

# Two at a time: most tests wait for something, and those that torture take minutes.
test: check
	$(VENV)/bin/pytest -n 2 --dist worksteal

bench: $(VENV)/.bench
	$(VENV)/bin/python -m tests.benchmarks $(BENCH)

torture: $(VENV)/.test
	$(VENV)/bin/python -m tests.system.torture $(TORTURE)

# For every Python that meterd runs on at once, and without the name of a registry.
LOCKED = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(LOCK)
lock: $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCKED) --output-file requirements.lock pyproject.toml
	sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '" ' | tr , '\n' | $(LOCKED) --output-file requirements-build.lock -
	echo 'pyinstaller>=6.16,<7' | $(LOCKED) --output-file requirements-binary.lock -

dist: $(VENV)/.test
	$(VENV)/bin/python -m build --outdir $(DIST) .

# A release is a tag v1.2.3 on what passes this.
release-check:
	@test -z "$$(git status --porcelain)" || { echo "not committed, so it would not be released:"; git status --short; exit 1; }
	rm -rf $(BUILD)/release
	git clone --quiet . $(BUILD)/release
	cd $(BUILD)/release && .ci/run
	$(MAKE) -C $(BUILD)/release dist binary
	cd $(BUILD)/release && dist/meterd --version && (cd dist && sha256sum *)
	@cd $(BUILD)/release && tag=$$(git describe --exact-match --match 'v*' 2>/dev/null || true); \
	    test -z "$$tag" || grep -q "^## $${tag#v}\b" CHANGELOG.md || { echo "CHANGELOG.md has no $${tag#v}"; exit 1; }

docs: $(VENV)/.run
	$(VENV)/bin/python packaging/configuration_page.py > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

# Installed anew, it knows version and commit as they are now.
image: $(VENV)/.run
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$$(command -v docker || command -v podman) build -t $(IMAGE) \
	    $$($(VENV)/bin/python -c 'from meterd import built; print("--build-arg VERSION=" + built.VERSION, "--build-arg COMMIT=" + built.COMMIT)') .

# Of what is locked, in a venv of its own: nothing that only tests need gets into it.
binary:
	$(PYTHON) -m venv --clear $(BUILD)/venv
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-build.lock
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-binary.lock
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	$(BUILD)/venv/bin/pyinstaller --onefile --name meterd --log-level WARN --noconfirm \
	    --distpath $(DIST) --workpath $(BUILD)/pyinstaller --specpath $(BUILD) meterd/__main__.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("meterd needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	@echo "installing meterd into $(VENV) (once)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "installing what the tests need into $(VENV) (once)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	@echo "installing what the benchmarks need into $(VENV) (once)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@
