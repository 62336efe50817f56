# `make run` and `make test` do all the set-up themselves. COCOAPI_LOC=folder make run takes other data than the scenes.
#   make run         install, draw the scenes, execute the four notebooks; results go to runs/
#   make lab         open the notebooks
#   make serve       a web page that captions photos, http://127.0.0.1:7860
#   make test        install, lint, test; make test-slow: what takes long; make test-gpu: on the GPU of this machine
#   make notebooks   execute the committed notebooks on the scenes and keep their outputs
#   make clean       remove caches of Python; runs/, data/ and .venv/ stay
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: run lab serve test test-slow test-gpu lint notebooks clean

run: .venv/installed
	$(PY) -m scripts.notebooks

lab: .venv/installed
	.venv/bin/jupyter lab 0_Dataset.ipynb

serve: .venv/installed-page
	$(PY) -m scripts.serve

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

test-slow: .venv/installed-tests .venv/installed-page
	$(PY) -m pip install --disable-pip-version-check --quiet -r tests/slow/requirements.txt
	$(PY) -m pytest -p no:randomly -s tests/slow

test-gpu: .venv/installed-tests
	$(PY) -m pytest -p no:randomly -rs tests/devices

lint: .venv/installed-tests
	.venv/bin/ruff check

notebooks: .venv/installed
	env -u COCOAPI_LOC $(PY) -m scripts.notebooks --refresh

clean:
	rm -rf .pytest_cache .ruff_cache .ipynb_checkpoints
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The marks are written last, so an interrupted installation is taken up again.
.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	@echo 'installing packages into .venv (5 GB, some minutes)'
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-tests: .venv/installed tests/requirements.txt
	$(PY) -m pip install --disable-pip-version-check --quiet -r tests/requirements.txt
	touch $@

.venv/installed-page: .venv/installed scripts/requirements.txt
	$(PY) -m pip install --disable-pip-version-check --quiet -r scripts/requirements.txt
	touch $@
