# Two commands are all a fresh machine needs: `make demo` and `make test`. Everything goes into .venv.
PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
BIN := $(VENV)/bin
export GRPC_VERBOSITY ?= ERROR

.PHONY: help demo test test-extras check fuzz bench bench-peers walkthrough chaos schema clean

help:
	@echo "make demo    a seeded consortium of a bank, a credit bureau and a tax office, end to end: build/demo/"
	@echo "make test    every test"
	@echo "make test-extras  tests of Flower as launcher, in an environment of its own"
	@echo "make check   format, lint, types, fast tests"
	@echo "make fuzz    every decoder against damaged input, a minute each"
	@echo "make chaos   kill -9 of every process at every stage, some twenty minutes"
	@echo "make walkthrough  a lab and three institutions with real databases, by documented commands"
	@echo "make bench-peers  Paillier beside phe, alignment beside SecretFlow's SPU (1.1 GB), in one run"
	@echo "make bench   Paillier and training beside phe, measured here"

demo: $(VENV)/.core
	@$(BIN)/concordat demo --out build/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Flower pins what Concordat does not, so it has an environment of its own. A SuperNode runs there as another user, who
# must be able to reach the interpreter: that of the system, where there is one.
EXTRAS := .venv-extras
EXTRAS_PYTHON ?= $(shell for p in /usr/bin/python3 $(PYTHON); do \
    $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

test-extras: $(EXTRAS)/.installed
	$(EXTRAS)/bin/python -m pytest tests/extras --confcutdir=tests/extras

$(EXTRAS)/.installed: pyproject.toml
	@echo "Installing into $(EXTRAS) ..."
	@$(EXTRAS_PYTHON) -m venv $(EXTRAS)
	@$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[flower,extras-test]"
	@touch $@

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not process and not consortium"

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds 60

walkthrough: $(VENV)/.test
	$(BIN)/python -m tests.walkthrough

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos

bench: $(VENV)/.core
	$(BIN)/python -m benchmarks.paillier
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.cross_validation

# Peers need more than a gigabyte and pin what we do not: an environment of their own.
PEERS := .venv-peers
bench-peers: $(VENV)/.core $(PEERS)/.installed
	$(BIN)/python -m benchmarks.paillier
	CONCORDAT_PEERS=$(PEERS)/bin/python $(BIN)/python -m benchmarks.alignment

$(PEERS)/.installed:
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check spu==0.9.5
	@touch $@

# The committed protocols/concordat_pb2.* come from this; protoc 31.1 writes code that protobuf 6.31 and later can run.
schema:
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/pip install --quiet grpcio-tools==1.74.0
	build/protoc/bin/python -m grpc_tools.protoc -Iprotocols --python_out=protocols --pyi_out=protocols \
	    protocols/concordat.proto

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Concordat needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	    || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.core: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@ $(VENV)/.core

clean:
	rm -rf build $(VENV) $(EXTRAS) .pytest_cache .mypy_cache .ruff_cache
