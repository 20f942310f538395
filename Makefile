# The two commands of the README are `make demo` and `make test`.
# Each makes the environment when it is missing or older than what it was made from.
#
#   make test PYTEST_ARGS="-m 'not slow'"     the quick part only
#   make demo DEMO_ARGS="--out my-report"     options of `visdiff demo`
#   make install VENV=/somewhere/else         an environment in another place
#
# constraints.txt is `pip freeze --exclude-editable` of a working environment, local version
# labels (+cpu, +cu126) removed, so that the same file serves every build of torch.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
SCREENSHOTS_ARGS ?=
NOTEBOOKS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
# Compiling every module of torch and transformers takes longer than their installation. Python keeps
# what it compiles at the first import, unless this variable is set, as in many containers.
PIP := $(BIN)/python -m pip install --quiet $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)

# Only training and the rendered benchmarks and tests need the art; see NOTICE for its licences.
ART := @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6
# Only a test uses it, to check the pages in Chromium (MPL-2.0, not distributed).
AXE := axe-core@4.14.1

.PHONY: install demo test lint docs dist-check art screenshots notebooks format clean

install: $(STAMP)

# The stamp is written last: an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "visdiff needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/visdiff demo $(DEMO_ARGS)

# One thread a worker: two workers that each use every core are slower than one. A worker runs whole
# files, so that module fixtures are made once; the longest first (tests/conftest.py).
test: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# With node's default of 4 GB, pyright drops what it knows of transformers and reads it again.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	NODE_OPTIONS=--max-old-space-size=6144 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The site in site/; a broken link or reference fails.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS_STAMP): $(STAMP)
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

# Builds dist/ and tries the wheel in an environment of its own.
dist-check:
	PYTHON=$(PYTHON) .ci/dist

art:
	npm install --silent --no-save --no-package-lock --prefix .art $(ART) $(AXE)

# Runs the notebooks and stores their outputs; NOTEBOOKS="03 05" runs these alone.
notebooks: $(STAMP)
	$(BIN)/python notebooks/store_outputs.py $(NOTEBOOKS)

# The images of docs/screenshots; needs Chromium.
screenshots: $(STAMP)
	$(BIN)/python docs/screenshots.py $(SCREENSHOTS_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find visdiff editing tests -name __pycache__ -type d -prune -exec rm -rf {} +
