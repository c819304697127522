# `make run` serves checkout, `make test` tests, `make check` is what else CI runs. Each sets up what it needs, once;
# after that nothing touches the network. Paths are relative on purpose: the folder's own path may hold a space.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test check format diagrams lock clean

help:
	@echo "make run       serve checkout on http://127.0.0.1:8080 (PORT=, PSP_PORT=, DATA_DIR= choose others)"
	@echo "make test      run the tests (ARGS='-k name' passes options on)"
	@echo "make check     format, lint, types, imports, SQL, diagrams: all that CI checks beside the tests"
	@echo "make format    put the code into the form that check demands"
	@echo "make diagrams  draw docs/ from the transition table again"
	@echo "make lock      pin the newest dependencies that pyproject.toml allows"
	@echo "make clean     remove .venv and caches; .tallystick/ (your data) stays"

run:
	@$(PYTHON) tools/prepare.py run
	@$(BIN)/tallystick serve $(if $(PORT),--port $(PORT)) $(if $(PSP_PORT),--psp-port $(PSP_PORT)) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

test:
	@$(PYTHON) tools/prepare.py dev
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup $(ARGS)

check:
	@$(PYTHON) tools/prepare.py dev
	@$(BIN)/python tools/check.py

format:
	@$(PYTHON) tools/prepare.py dev
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet --fix

diagrams:
	@$(PYTHON) tools/prepare.py dev
	@$(BIN)/python tools/diagrams.py

lock:
	@$(PYTHON) tools/prepare.py lock
	@$(BIN)/python tools/lock.py $(ARGS)

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
