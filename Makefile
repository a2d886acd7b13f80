# make test     everything that is checked: lint, types, import contracts, all tests
# make fast     the tests that need no other program and start none of ours, with few drawn examples: for while you work
# make coverage-floors  lift what the tests have to run of each module to what the last make test has found
# make test-long what takes too long for every run: a file of 2 GiB, hundreds of kills, 5,000 streams, networks
# make demo     see it work, then try it by hand; ONCE=1 ends after the checks
# make bench    measure throughput, set-up time and latency
# make compiled build the package with a compiled association, and test that one; make bench measures it beside the other
# make dist     build what is published, into dist: sdist and wheel, tried in environments of their own
# make stats    count lines, files, Protocols, parameters
# make constraints  upgrade all packages, and write down which versions the tests then run with
# make fuzz     look for packets that the association cannot stand, for FUZZ_SECONDS=300
#
# Nothing needs to be prepared but python3 and make: each target first makes the virtual environments that it needs,
# once. As root on Debian or Ubuntu missing programs are installed, otherwise the command for it is printed.
# PYTHON=... names another interpreter, MXRTC_SYNAPSE_PYTHON=... one that has Synapse already.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

BIN := .venv/bin
SYNAPSE := matrix-synapse[oidc]>=1.141,<2
PINNED := --constraint constraints.txt
PYTEST_ARGS ?=
LONG_TESTS := tests/e2e/test_large_files.py tests/e2e/test_files_killed.py tests/sinks/files/receive/test_drop_box_killed.py \
	tests/bridge/access/test_grants_killed.py tests/e2e/test_kills.py tests/e2e/test_stream_endings.py tests/nets \
	tests/rtc/test_interop.py tests/rtc/test_interop_loss.py tests/rtc/test_interop_numbers.py tests/rtc/test_interop_timeouts.py \
	tests/e2e/test_other_stacks.py tests/test_first_hour.py tests/test_containers.py \
	tests/login/test_matrix_authentication_service.py

RUN_READY := .venv/.ready-to-run
TEST_READY := .venv/.ready-to-test
BROWSER_READY := tests/browser/node_modules/.ready
INTEROP_READY := tests/rtc/interop/node_modules/.ready build/interop/pion build/interop/compose
ifdef MXRTC_SYNAPSE_PYTHON
SYNAPSE_READY :=
else
SYNAPSE_READY := .synapse/.ready
endif

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

.PHONY: test
test: packages-test lint pytest

# Compiled modules of the tests are kept whatever the environment says, as reading them anew takes longer than the rest.
.PHONY: fast
fast: export PYTHONDONTWRITEBYTECODE :=
fast: $(TEST_READY)
	MXRTC_FAST_TESTS=1 $(BIN)/pytest -m "not real and not alone and not programs" $(FORKS) $(PYTEST_ARGS)

IN_PROCESS := -m "not real and not alone"
SIDE_BY_SIDE := --numprocesses auto --dist worksteal
# More than there are processors, as tests wait. xdist's workers would import and collect everything anew, each of them.
FORKS = -p tests.forked --forks $$(($$(getconf _NPROCESSORS_ONLN) + 4))

# What needs no other program runs twice: measured, with few drawn examples, as measuring makes it more than twice as
# slow, and then again where an ordinary run does more. What does runs some files at a time, as it waits for half of the
# time, and alone where it must not be late; measured are those files under which parts of the program run that do not
# elsewhere, and few bytes are moved. tests/conftest.py says which files begin first.
REAL := -m "real and not alone"
BY_FILE := --numprocesses auto --dist loadfile --no-loadscope-reorder
MEASURED := tests/demo/test_demo.py tests/rtc/test_turn.py tests/rtc/test_turn_faults.py $(patsubst %,tests/e2e/%.py, test_access test_admins_words \
	test_audit test_control test_encrypted_rooms test_people test_signal test_verify)

# What a user runs, once more without what only Linux has: mxrtc_bridge/system. In tests/system also as on Windows.
USER_SIDE := tests/client tests/cli/client tests/sinks tests/rtc tests/engine

# On a slow machine a test can be late because of what is beside it. Files in which something has failed are run once more,
# with nothing beside them, and count as failed if they fail again; both are in the output. Whole files, as what fails only
# behind another test of its file is not late; and measured, where the first run was. Only exit code 1 says that everything
# was run.
FAILED_FILES := sed -n 's/^ *"\([^":]*\.py\).*/\1/p' build/pytest_cache/v/cache/lastfailed | sort -u
run = $(1) $(2) || { test $$? -eq 1 && files=$$($(FAILED_FILES)) && test -n "$$files" && $(1) $$files; }
MEASURE := $(BIN)/coverage run -m pytest

.PHONY: pytest
pytest: export PYTHONDONTWRITEBYTECODE :=
pytest: packages-test $(TEST_READY) $(SYNAPSE_READY) $(BROWSER_READY) $(INTEROP_READY)
ifeq ($(strip $(PYTEST_ARGS)),)
	rm -rf build/coverage
	$(call run,MXRTC_FAST_TESTS=1 $(MEASURE) $(IN_PROCESS),$(SIDE_BY_SIDE))
	$(call run,MXRTC_AFTER_FAST_TESTS=1 $(BIN)/pytest $(IN_PROCESS),$(SIDE_BY_SIDE))
	$(call run,MXRTC_PORTABLE=1 MXRTC_FAST_TESTS=1 $(BIN)/pytest -m "not real and not alone and not linux",$(FORKS) $(USER_SIDE))
	$(call run,MXRTC_PORTABLE=windows MXRTC_FAST_TESTS=1 $(BIN)/pytest -m "not real and not alone and not linux and not posix",$(FORKS) tests/sinks)
	$(call run,$(MEASURE) $(REAL),$(BY_FILE) $(MEASURED))
	$(call run,$(BIN)/pytest $(REAL),$(BY_FILE) $(MEASURED:%=--ignore=%))
	$(call run,$(BIN)/pytest -m alone)
	$(BIN)/python -m tests.coverage_floors
else
	$(BIN)/pytest $(PYTEST_ARGS)
endif

.PHONY: coverage-floors
coverage-floors: $(TEST_READY)
	$(BIN)/python -m tests.coverage_floors --raise

.PHONY: test-long
test-long: packages-long $(TEST_READY) $(SYNAPSE_READY) $(BROWSER_READY) $(INTEROP_READY) build/interop/str0m build/mas/mas-cli
	MXRTC_LONG_TESTS=1 $(BIN)/pytest -rP $(LONG_TESTS) $(PYTEST_ARGS)

.PHONY: lint
lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.user_side_types
	$(BIN)/lint-imports

.PHONY: format
format: $(TEST_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: demo
demo: $(RUN_READY) $(SYNAPSE_READY)
	@$(BIN)/python -m mxrtc_bridge.demo $(if $(filter-out 0,$(ONCE)),--once)

.PHONY: bench
bench: packages-test $(TEST_READY) $(SYNAPSE_READY) $(INTEROP_READY)
	@$(BIN)/python -m tests.bench $(filter-out $@,$(MAKECMDGOALS))

# `make bench scale` runs one section; as a goal of its own it does nothing.
.PHONY: scale
scale:
	@:

.PHONY: installation
installation:
	@:

# Built from a copy, as the compiler leaves its modules beside the sources. The wheel is unpacked beside the tests: what
# stands in the working folder is found before what is installed.
COMPILED := build/compiled
.PHONY: compiled
compiled: $(TEST_READY)
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)/source
	cp -R pyproject.toml README.md LICENSE completions mxrtc_bridge $(COMPILED)/source
	mkdir $(COMPILED)/source/docs && cp -R docs/man $(COMPILED)/source/docs
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/pip wheel --quiet --no-deps --wheel-dir $(COMPILED) ./$(COMPILED)/source
	cd $(COMPILED) && ../../$(BIN)/python -m zipfile -e *.whl . && ln -s ../../tests tests && cp ../../pyproject.toml .
	cd $(COMPILED) && ../../$(BIN)/python -c 'import sys; from mxrtc_bridge.sctp import association; sys.exit(association.__file__.endswith(".py"))'
	cd $(COMPILED) && ../../$(BIN)/python -m pytest tests/sctp tests/rtc/test_peer.py tests/rtc/test_flow_control.py

# Tried twice: without a network in environments that hold no more than the wheel names, and as pip installs it.
DIST := build/dist
.PHONY: dist
dist: packages-demo $(TEST_READY) $(SYNAPSE_READY)
	rm -rf dist $(DIST)
	$(BIN)/python -m build --no-isolation
	MXRTC_DIST=$(CURDIR)/dist $(BIN)/pytest tests/test_distributions.py
	.ci/venv $(DIST)/client $(PINNED) dist/*.whl
	$(DIST)/client/bin/mxrtc --version
	.ci/venv $(DIST)/bridge $(PINNED) "$$(echo dist/*.whl)[bridge]"
	cd $(DIST) && MXRTC_SYNAPSE_PYTHON=$${MXRTC_SYNAPSE_PYTHON:-$(CURDIR)/.synapse/bin/python} bridge/bin/python -m mxrtc_bridge.demo --once

.PHONY: stats
stats: $(TEST_READY)
	@$(BIN)/python -m tests.code_size

FUZZ_SECONDS ?= 300
.PHONY: fuzz
fuzz: $(TEST_READY)
	.ci/venv .venv $(PINNED) --editable '.[test,fuzz]'
	$(BIN)/python -m tests.sctp.fuzz -max_total_time=$(FUZZ_SECONDS)

# The pages and examples that are printed by the program; the tests compare them.
.PHONY: docs
docs: $(TEST_READY)
	@$(BIN)/python -m tests.write_docs

# The newest versions that are allowed, for whoever then runs all tests with them.
.PHONY: constraints
constraints: packages-demo
	.ci/venv .venv --upgrade --upgrade-strategy eager --editable '.[test]'
	.ci/venv .synapse --upgrade --upgrade-strategy eager '$(SYNAPSE)'
	$(BIN)/python -m tests.constraints

# The documentation as a web site, in build/site.
.PHONY: docs-site
docs-site: $(TEST_READY)
	$(BIN)/mkdocs build --quiet --strict

.PHONY: synapse
synapse: $(SYNAPSE_READY)

.PHONY: clean
clean:
	rm -rf .venv .synapse tests/browser/node_modules tests/rtc/interop/node_modules build dist bench.json .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find mxrtc_bridge tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: packages-test packages-long packages-demo
packages-test:
	@.ci/packages test
packages-long:
	@.ci/packages long
packages-demo:
	@.ci/packages demo

$(RUN_READY): pyproject.toml constraints.txt .ci/venv | packages-demo
	.ci/venv .venv $(PINNED) --editable '.[bridge]'
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt .ci/venv | packages-demo
	.ci/venv .venv $(PINNED) --editable '.[test]'
	@touch $@ $(RUN_READY)

.synapse/.ready: Makefile constraints.txt .ci/venv | packages-demo
	.ci/venv .synapse $(PINNED) '$(SYNAPSE)'
	@touch $@

# Nothing but the packages that the lock file names by hash is taken, and none of their scripts runs.
$(BROWSER_READY): tests/browser/package.json tests/browser/package-lock.json | packages-test
	cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

tests/rtc/interop/node_modules/.ready: tests/rtc/interop/package.json tests/rtc/interop/package-lock.json | packages-test
	cd tests/rtc/interop && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

build/interop/pion: $(wildcard tests/rtc/interop/pion/*) .ci/interop | packages-test
	.ci/interop pion

build/interop/compose: $(wildcard tests/compose/*) .ci/interop | packages-test
	.ci/interop compose

build/interop/str0m: $(wildcard tests/rtc/interop/str0m/*) .ci/interop | packages-long
	.ci/interop str0m

build/mas/mas-cli: .ci/mas | packages-long
	.ci/mas
