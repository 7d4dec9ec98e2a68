# Every verb of the project; `make help` lists them. The first run installs what is missing, later ones start at once.
# All Python runs from .venv; system packages come from scripts/bootstrap (Debian).

SHELL := /bin/sh
PY := .venv/bin/python
SOURCES := setup.py flyproxy/errors.py $(shell find flyproxy/_speedups -name '*.pyx' -o -name '*.pxd' -o -path '*/csrc/*.[ch]')

# Where Python may keep no bytecode, every start of a process compiles what it imports: a quarter of its start.
unexport PYTHONDONTWRITEBYTECODE

DEMO_PORT ?= 8080
DEMO_DIR ?= .demo

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 20

# -- installing and building; each stamp stands for a step that is done

.venv/.packages:
	scripts/bootstrap build
	@mkdir -p .venv && touch $@

.venv/.requirements: pyproject.toml scripts/venv | .venv/.packages
	scripts/venv
	@touch $@

build/release/.done: $(SOURCES) .venv/.requirements
	$(PY) setup.py -q build_ext --inplace
	@mkdir -p build/release && touch $@

# The commands flyproxy and flyproxyctl; the compiled part is there already and is not built again.
.venv/.installed: pyproject.toml | build/release/.done
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: build
build: build/release/.done .venv/.installed ## the compiled part in place, the commands in .venv/bin

.PHONY: clean
clean: ## everything that is built; .venv stays
	rm -rf build dist .demo .mypy_cache .ruff_cache .hypothesis .benchmarks *.egg-info
	find flyproxy -name '*.so' -delete
	find . -path ./.venv -prune -o -name __pycache__ -type d -print | xargs rm -rf
	rm -f flyproxy/_speedups/errors.pxd flyproxy/_speedups/csrc/errors_table.h flyproxy/_speedups/csrc/hpack_tables.h

# -- using

.PHONY: demo
demo: build ## three regions with two apps to try; DEMO_PORT=8080 DEMO_DIR=.demo
	@scripts/bootstrap demo
	@$(PY) scripts/demo.py --port $(DEMO_PORT) --dir $(DEMO_DIR)

# -- checking

.PHONY: lint
lint: build ## ruff, mypy, cython-lint, layering, stubs
	.venv/bin/ruff check .
	.venv/bin/mypy
	PATH="$(CURDIR)/.venv/bin:$$PATH" cython-lint flyproxy/_speedups
	$(PY) tests/guards/layering.py
	$(PY) tests/guards/stubs.py

.PHONY: test
test: build ## everything but what is marked long, several files at a time; ARGS= for some of it
	@scripts/bootstrap test
	$(PY) $(if $(ARGS),-m pytest -q -m "not long" $(ARGS),scripts/run_tests.py)

.PHONY: test-hops
test-hops: build ## what tests say of one host, with the machines on another: the same tests over the backhaul, some in TLS
	@scripts/bootstrap test
	$(PY) scripts/run_tests.py hops tls

.PHONY: test-long
test-long: build ## what is marked long, too
	@scripts/bootstrap test
	$(PY) -m pytest -q -m long $(ARGS)

.PHONY: soak
soak: export SOAK_MINUTES = $(or $(MINUTES),30)
soak: build ## mixed load for MINUTES=30: no failed request, no growing memory
	@scripts/bootstrap test
	$(PY) -m pytest -q -m long --timeout=0 tests/long/test_soak.py

.PHONY: chaos
chaos: export CHAOS_SECONDS = $(or $(SECONDS),60)
chaos: build ## processes are killed and stopped under load for SECONDS=60
	@scripts/bootstrap test
	$(PY) -m pytest -q -m long --timeout=0 tests/long/test_chaos.py

.PHONY: asan
asan: build ## the compiled part under address and undefined-behaviour sanitizers
	@scripts/bootstrap test
	scripts/asan $(ARGS)

.PHONY: fuzz
fuzz: build ## the codecs under libFuzzer for SECONDS=20 in all
	@scripts/bootstrap fuzz
	$(PY) tests/fuzz/run.py --seconds $(or $(SECONDS),20)

.PHONY: conformance
conformance: build ## the HPACK story corpus of CORPUS=DIR (DIR/hpack-test-case)
	$(PY) -m tests.http2.corpus $(or $(CORPUS),../shared/data)

.PHONY: insn
insn: build ## the instruction gate: callgrind counts against the baseline
	@scripts/bootstrap insn
	$(PY) bench/insn/run.py

.PHONY: bare-machine
bare-machine: ## make test and make demo in a chroot where nothing is installed (root; minutes)
	@scripts/bootstrap bare
	scripts/bare-machine.sh

# -- measuring

.PHONY: bench
bench: build ## cost of a request beside relay, HAProxy, nginx and Envoy, in one hop and in two; ROUNDS=5 SECONDS=4 ONLY=row,row
	@scripts/bootstrap bench
	$(PY) bench/run.py --rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),4) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-distance
bench-distance: build ## throughput over a way of 100 ms, beside raw TCP; ROUNDS=3 SECONDS=5
	@scripts/bootstrap bench
	PYTHONPATH=. $(PY) bench/distance.py --rounds $(or $(ROUNDS),3) --seconds $(or $(SECONDS),5)

.PHONY: bench-fairness
bench-fairness: build ## riders of one transport, alone and beside others, in pairs; PAIRS=7 SECONDS=2
	@scripts/bootstrap bench
	PYTHONPATH=. $(PY) bench/fairness.py --pairs $(or $(PAIRS),7) --seconds $(or $(SECONDS),2)

.PHONY: bench-micro
bench-micro: build ## parsing, rewriting, choosing, tables: pytest-benchmark
	$(PY) -m pytest -q --benchmark-only --benchmark-columns=min,median,ops --timeout=0 bench/micro

.PHONY: bench-propagation
bench-propagation: build ## commit to every worker, commit to a new port; writes docs/propagation.md; CHANGES=2000 RATE=200
	@scripts/bootstrap bench
	$(PY) -m bench.propagation --changes $(or $(CHANGES),2000) --rate $(or $(RATE),200)
