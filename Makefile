# One entry point for people and for CI: `make help` lists the targets.
# Override on the command line: make test PYTHON=python3.12 VENV=.venv312 CONSTRAINTS=other.txt WORKERS=8

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
KERNELS := CMakeLists.txt $(wildcard src/tailorbird/kernels/cpp/*)
TESTED := eval,compressed-tensors,onnx,llama,triton
WEB := tests/tailor/web
PEERS := .bench/peers-venv/bin/python
LINTED := src tests scripts $(wildcard benchmarks examples)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-all lint format bench bench-quality bench-budgets bench-speed bench-kernels bench-memory
.PHONY: bench-callgrind bench-tailor bench-recommenders docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(VENV)/.stamp-setup ## create .venv and install the package with its demo, serve and dev extras

demo: setup ## compress, verify and evaluate the demo model; ends with a table and a report
	$(VENV)/bin/tailorbird demo

test: setup ## every test but the slow ones
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: setup $(VENV)/.stamp-tested $(WEB)/node_modules ## every test, with the extras they need installed
	$(PY) -m pytest -n $(WORKERS) --dist loadfile

lint: setup ## ruff, mypy --strict, import-linter
	$(PY) -m ruff check $(LINTED)
	$(PY) -m ruff format --check $(LINTED)
	$(PY) -m mypy --strict
	$(VENV)/bin/lint-imports

format: setup ## let ruff mend what it can
	$(PY) -m ruff check --fix-only $(LINTED)
	$(PY) -m ruff format $(LINTED)

bench: setup ## speed of the stages on the demo model
	$(PY) benchmarks/speed.py

bench-quality: setup ## perplexity at equal real bytes, beside other libraries (they take an hour the first time)
	test -x $(PEERS) || bash benchmarks/peers/setup.sh
	$(PEERS) benchmarks/peers/run.py --out benchmarks/results/peers.json
	$(PY) benchmarks/quality.py

bench-budgets: setup ## random budgets: kept, used, and against uniform bits
	$(PY) benchmarks/budgets.py

bench-speed: setup ## tokens a second at several bit-widths, beside llama.cpp where its environment is set up
	$(PY) benchmarks/decode.py

bench-kernels: setup ## milliseconds of one product by bits and shape, beside other libraries where they are set up
	$(PY) benchmarks/kernels.py

bench-tailor: setup ## every tailoring system on its trunks, two data sets, three seeds: what a head of one's own is worth
	$(PY) benchmarks/tailor.py quality

bench-recommenders: setup ## every recommender on the packaged films: NDCG@10 by full ranking, time to the best
	$(PY) benchmarks/recommenders.py

bench-memory: setup ## peak memory on a checkpoint larger than the budget
	$(PY) benchmarks/memory.py

bench-callgrind: setup ## instructions the kernels take for a weight, counted under valgrind
	$(PY) benchmarks/instructions.py

# onnxruntime-web for the tests in a browser; without npm they say what they need.
$(WEB)/node_modules: $(WEB)/package-lock.json
	if command -v npm >/dev/null; then npm ci --ignore-scripts --prefix $(WEB) && touch $@; fi

docs: $(VENV)/.stamp-docs ## build the documentation into site/
	$(PY) -m mkdocs build --strict

clean: ## remove what these targets made
	rm -rf $(VENV) build dist site demo-out .bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf src/*.egg-info

# A stamp is written after its installation succeeded, so an interrupted one starts again.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "$(PYTHON) is older than 3.10; try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-setup: pyproject.toml $(CONSTRAINTS) $(KERNELS) | $(VENV)/.stamp-venv
	$(PIP) install --quiet -c $(CONSTRAINTS) -e '.[demo,serve,dev]'
	@touch $@

# One installation for all of them, as each compiles our kernels. llama.cpp comes as source: only the library is wanted,
# and compiling it takes minutes.
$(VENV)/.stamp-tested: EXTRAS := $(TESTED)
$(VENV)/.stamp-tested: export CMAKE_ARGS := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF
$(VENV)/.stamp-docs: EXTRAS := docs
$(VENV)/.stamp-tested $(VENV)/.stamp-docs: pyproject.toml $(CONSTRAINTS) | $(VENV)/.stamp-venv
	$(PIP) install --quiet -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@
