# Needs Python 3.11 or newer, stable Rust and GNU make; everything else goes into .venv.
#
#   make demo    install lrgate and run the demo
#   make test    all Rust and Python tests, on every instruction set of this machine
#   make lint    formatting, lints, types, documentation, spelling, prose
#   make quick   train small networks with the estimator: errors in the order of the ranks
#   make loom    model checks of the thread pool's work queue
#   make counts  instructions of kernels against those on record (x86-64 Linux, valgrind)
#   make bench   all benchmarks
#   make bench-peers  lrgate beside every other engine; hours; writes docs/benchmarks.md
#   make clean   remove the files that the other targets made
#
# PYTHON=python3.12 chooses the interpreter that .venv is made from.

VENV := .venv
BIN := $(VENV)/bin
CARGO ?= cargo
# Installs packages into .venv. CI uses uv, which takes a tenth of the time.
INSTALL ?= $(BIN)/python -m pip install --disable-pip-version-check --quiet

# The first that really runs: a version manager's shim may stand for a Python that is not there.
ifndef PYTHON
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; \
	done)
endif

# Sources of the installed package; folders too, so that a removed file is noticed.
SOURCES := $(shell find python rust -name __pycache__ -prune -o ! -name '*.so' ! -name '*.pyc' -print) \
	Cargo.toml Cargo.lock pyproject.toml README.md

EXTRAS_demo :=
EXTRAS_lint := [lint]
EXTRAS_test := [test,train]
# In CI one installation serves lint and test. Packages of the tests marked `frameworks`, which take
# some gigabytes, are installed only there.
EXTRAS_ci := [frameworks,lint,test,train]
INSTALLED_lint := $(VENV)/installed-$(if $(CI),ci,lint)
INSTALLED_test := $(VENV)/installed-$(if $(CI),ci,test)
EXTRAS_bench := [bench]
EXTRAS_bench-peers := [bench-peers]

.PHONY: help demo test lint quick loom counts bench bench-peers clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

demo: $(VENV)/installed-demo
	$(BIN)/lrgate demo

# Everything on the best instruction set. The core's tests name the sets they compute with, all of
# them for kernels, so on the other sets only those run that make networks for the set in use. Of
# the Python tests, those marked `isa` run on every set. LRGATE_ISA is an order, not a wish: a set
# that is not in use fails tests/test_isa.py.
CORE_TESTS := rust/core/tests
ISA_TESTS := $(basename $(notdir $(shell grep -lE 'Network::new|Isa::detect' $(CORE_TESTS)/*.rs)))
ISA_FILES := $(shell grep -l 'mark\.isa' tests/*.py)
OTHER_ISA := $(BIN)/python -m pytest -q -m isa $(ISA_FILES)
test: export LRGATE_REQUIRE_TORCH := 1
test: export LRGATE_REQUIRE_FRAMEWORKS := $(CI)
test: export KERAS_BACKEND := torch
test: $(INSTALLED_test)
	@set -eu; \
	isas=$$($(BIN)/python -c 'import lrgate; print(*lrgate.available_isas())'); \
	echo "instruction sets, best first: $$isas"; \
	best=$${isas%% *}; \
	echo "== Rust tests, LRGATE_ISA=$$best"; \
	LRGATE_ISA=$$best $(CARGO) test --locked -p lrgate; \
	logs=$$(mktemp -d); trap 'rm -rf "$$logs"' EXIT; \
	echo "== tests of the set in use, with the other sets side by side"; \
	for isa in $$isas; do [ $$isa = $$best ] || echo $$isa; done \
	| xargs -r -P "$$(getconf _NPROCESSORS_ONLN)" -I {} env LRGATE_ISA={} sh -c ' \
		exec >"'$$logs'/{}" 2>&1; \
		echo "== Rust and Python, LRGATE_ISA={}"; \
		$(CARGO) test --locked -p lrgate $(ISA_TESTS:%=--test %) && $(OTHER_ISA)' \
	|| failed=yes; \
	cat "$$logs"/* 2>/dev/null || :; \
	[ -z "$${failed:-}" ]; \
	echo "== Python tests, LRGATE_ISA=$$best"; \
	LRGATE_ISA=$$best $(BIN)/python -m pytest -n auto --dist worksteal

lint: export PYO3_PYTHON := $(abspath $(BIN)/python)
lint: export RUSTDOCFLAGS := -D warnings
lint: $(INSTALLED_lint)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path rust/loom/Cargo.toml
	$(CARGO) fmt --check --manifest-path benches/pool/Cargo.toml
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) doc --locked --workspace --no-deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict python/lrgate
	MYPYPATH=python $(BIN)/stubtest --mypy-config-file pyproject.toml lrgate._core
	git ls-files -z | xargs -0 $(BIN)/codespell
	git ls-files -z '*.md' | xargs -0 $(BIN)/pymarkdown scan
	$(BIN)/python tools/prose.py
	$(BIN)/python tools/cycles.py
	PYTHONPATH=python $(BIN)/lint-imports

quick: $(INSTALLED_test)
	$(BIN)/python training/reproduce.py mnist --quick

loom:
	$(CARGO) test --locked --manifest-path rust/loom/Cargo.toml

counts: | $(BIN)/python
	CARGO=$(CARGO) $(BIN)/python benches/counts.py

bench: $(VENV)/installed-bench
	$(BIN)/python -m pytest --benchmark-only

# PEERS holds options of benches/peers/run.py, such as PEERS="--works shipped --threads 1". Variables
# that choose OpenBLAS's kernels would slow NumPy down.
bench-peers: $(VENV)/installed-bench-peers
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python benches/peers/run.py $(PEERS)

clean:
	rm -rf $(VENV) target dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "lrgate needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lrgate needs Python 3.11 or newer")'
	$(PYTHON) -m venv --clear $(VENV)

# A copy of the package as users get it, not a link into python/.
$(VENV)/installed-%: $(SOURCES) | $(BIN)/python
	@command -v $(CARGO) >/dev/null || { echo "lrgate needs stable Rust: cargo is not on PATH" >&2; exit 1; }
	@echo "building lrgate$(EXTRAS_$*) and installing it into $(VENV): takes a minute or more the first time"
	$(INSTALL) ".$(EXTRAS_$*)"
	@touch $@
