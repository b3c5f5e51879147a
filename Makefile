# make demo and make test do all the set-up on a fresh Debian or Ubuntu machine with python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench referee clean

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dataplane needs Python 3.11 or newer; say which with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv; } \
		|| { echo "python3-venv is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

demo: $(VENV)/ready
	$(BIN)/dataplane compile -f rulesets/external-ip/ --node node-a -o save | grep -e KUBE-EXT -e 'external IP'
	$(BIN)/dataplane trace -f rulesets/external-ip/ --node node-a 'tcp 203.0.113.7:40000 > 198.51.100.10:80'

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[check]'
	$(BIN)/ruff check dataplane
	$(BIN)/mypy dataplane
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info

N ?= 100000
referee: $(VENV)/ready
	$(BIN)/python -m tests.kernel.referee $(N)
