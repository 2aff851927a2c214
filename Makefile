# From a fresh clone, with Python >= 3.10 (and its venv module), a C++ compiler and make:
#
#   make test     install into .venv (once) and run the tests;  ARGS="-k name" goes to pytest
#   make demo     train, export, compile and deploy a character language model
#   make lint     ruff and pyright
#   make format   let ruff rewrite what it can
#   make clean    remove everything that was made
#
# PYTHON=python3.12 picks the interpreter, PIP_ARGS="-c file" goes to pip.

PYTHON ?= python3
PIP_ARGS ?=
PYRIGHT_ARGS ?=
ARGS ?=
PYRIGHT_ARGS ?=

# Relative, and run as `python -m`, so that a checkout in a path with spaces works.
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input install --quiet $(PIP_ARGS)

EXTRAS := runtime,compile,mxnet,cli,safetensors,test

# Stamps live inside the environment: whoever removes it removes them too.
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.installed-lint

.PHONY: test demo lint format install clean
.DELETE_ON_ERROR:

test: $(INSTALLED)
	$(RUN) -m pytest $(ARGS)

demo: $(INSTALLED)
	$(RUN) -m examples.char_lm $(ARGS)

lint: $(LINTERS)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN) $(PYRIGHT_ARGS)

format: $(LINTERS)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

install: $(INSTALLED)

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'gluonlstm needs Python >= 3.10: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@command -v "$${CXX:-g++}" >/dev/null || \
		{ echo 'gluonlstm needs a C++ compiler to link: apt install g++' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# MXNet 1.9.1 asks for numpy<2, which Python 3.13 does not have. It runs on NumPy 2 all the same
# (gluonlstm.mxnet_compat), so there it is installed without looking at what it asks for.
$(INSTALLED): $(CREATED) pyproject.toml setup.py
	@echo 'Installing gluonlstm, MXNet and TVM into $(VENV), once (some 200 MB to download)'
	$(PIP) --editable '.[$(EXTRAS)]'
	@if $(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
		set -x; $(PIP) --no-deps mxnet==1.9.1; fi
	@touch $@

# After $(INSTALLED): pyright reads the types of what is installed, and two pips must not run at
# the same time in one environment under make -j.
$(LINTERS): $(INSTALLED)
	$(PIP) --editable '.[lint]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
