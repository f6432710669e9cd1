# make train        install, train on the built-in data set, show scores and pictures (3 minutes);
#                   a second call replaces the first one's run
# make test         install, run all tests but the slow ones, in two processes
# make test-all     the slow ones too
# make check        lint, format, types, spelling, sizes of files and functions, circles of imports
# make tables       count parameters and FLOPs of all models, and write docs/models.md
# make visdom       a Visdom server for --enable_vis, on this machine alone; the first time it gets the
#                   files of its page with npm
# make gpu          is the program right and quick on this GPU? with the Python that has torch, which
#                   needs no more than requirements.txt; nothing is installed (half an hour)
# make install      only install, into .venv
# make clean        delete .venv
# make PYTHON=python3.12 ...   with another interpreter (3.11 or later)

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

# A test's tensors are small: more threads would only wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: train test test-all check tables visdom gpu install clean

train: install
	$(BIN)/python main.py @recipes/shapes.txt --overwrite

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python .ci/check.py

tables: install
	$(BIN)/python -m network.summary

visdom: install
	$(BIN)/python -m utils.visualizer assets
	$(BIN)/python -m utils.visualizer serve

gpu:
	$(PYTHON) -m benchmarks.gpu $(if $(DATA),--data $(DATA))

install: $(VENV)/.installed

# Visdom's source package can't be built with setuptools from 81 on, and no file pip reads can say
# so for both old and new pip: so it is built here, with an older setuptools already in place.
$(VENV)/.installed: requirements.txt requirements-test.txt requirements-visdom.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt -r requirements-test.txt
	$(BIN)/python -m pip install 'setuptools>=77.0.3,<81'
	$(BIN)/python -m pip install --no-build-isolation -r requirements-visdom.txt
	touch $@

clean:
	rm -rf $(VENV)
