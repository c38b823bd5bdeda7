# make train   set everything up, then train (ARGS="--data fashion_mnist" and any option of `fastgan train`)
# make test    set everything up, then run the tests: with kernels required, then by the references alone
# make setup   only the set-up: virtual environment, PyTorch, compiled kernels
#
# PYTHON= another interpreter (3.10 or newer); a torch >= 2.10 that it already has is used as it is.
# TORCH=  another PyTorch. A bare "torch" fetches gigabytes of CUDA packages where only a CPU is at hand.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
MODEL  ?= dcgan
# Small enough for minutes on two CPU cores; options in ARGS come later and win.
SMALL  ?= --model.ngf 32 --model.ndf 32 --batch-size 32 --steps 2500
ARGS   ?=

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
INPUTS := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: setup train test lint clean

setup: $(READY)

train: $(READY)
	$(BIN)/fastgan train $(MODEL) $(SMALL) $(ARGS)

test: $(READY)
	FASTGAN_REQUIRE_KERNELS=1 $(BIN)/python -m pytest tests
	FASTGAN_IMPL=reference $(BIN)/python -m pytest tests

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info fastgan/_C*.so

# An environment that sees the interpreter's own torch where there is one, and gets one where there is none.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "fastgan needs Python 3.10 or newer; choose one with PYTHON=python3.12"; exit 1; }
	@if $(PYTHON) -c 'import torch, sys; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10))' 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi

$(READY): $(VENV)/pyvenv.cfg $(INPUTS)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet '$(TORCH)' numpy
	@$(BIN)/python -m pip install --quiet 'setuptools>=77' wheel 'pybind11>=2.13' ninja
	FASTGAN_BUILD=require $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test]'
	@$(BIN)/fastgan info
	@touch $@
