PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: quickstart test test-all check lint format docs wheel clean

quickstart: $(VENV)/installed  ## Train, convert, calibrate and evaluate on the digits
	$(RUN) -m ftbc_pl fit --config configs/quickstart.yaml
	@echo "Open the report.html named above in a browser. Next: your own images (docs/own-images.md), your own"
	@echo "LightningModule (docs/lightning.md), or the options: $(VENV)/bin/python -m ftbc_pl fit --help"

test: $(VENV)/installed  ## Run the tests, on all cores, but those of scripts and pages that take half a minute each
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m "not long"

test-all: $(VENV)/installed  ## Run all tests
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

check: $(VENV)/installed  ## Run the fast tests
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m "not slow"

lint: $(VENV)/installed  ## Lint, format check, types and the order of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/installed  ## Format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/installed  ## Build the site of docs/ in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "Read it at http://localhost:8000 after: $(RUN) -m http.server --bind localhost --directory build/site"

wheel: $(VENV)/installed  ## Build dist/*.whl
	$(RUN) -m build --wheel

clean:  ## Remove what the other targets made
	rm -rf $(VENV) dist build runs .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e '.[dev]'
	touch $@
