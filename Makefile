# `make test` and `make demo` do all the set-up on a fresh machine: python3 (3.11 to 3.13) and make are enough.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# A CPU step asks for its memory anew; in huge pages that takes a tenth of the time or less off it (glibc, else ignored).
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1
# A file of tests is one process', in the order of tests/conftest.py: the longest files first.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow coverage lint

# Sample a clip from the embedded weights, then train text to video as they were, on the CPU.
demo: $(VENV)/core runs/first_clip.mp4
	$(HUGE_PAGES) $(RUN) -m magicvideo_jax.train --config=configs/t2v.py --workdir=runs/demo

runs/first_clip.mp4: | $(VENV)/core
	$(RUN) -m magicvideo_jax.sample --prompt="a red heart moving left" --out=$@
	@echo "first clip: $@, by weights that come with the package; now a model of your own is trained"

# Check format, lint and types, and run the test suite in two processes.
test: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --project . --level error
	$(RUN) -m pytest $(WORKERS)

# Run the suite with the tests that take minutes or full-size networks.
test-slow: $(VENV)/dev
	$(RUN) -m pytest --slow

# Run the suite and list the lines that no test runs; fails below the bar in pyproject.toml.
coverage: $(VENV)/dev
	$(RUN) -m pytest $(WORKERS) --cov --cov-report=term-missing:skip-covered

# Format the code, mend what ruff can mend, and check types.
lint: $(VENV)/dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/basedpyright --project . --level error

$(VENV)/core: requirements.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

# imaginairy is not imported: tests compare our key tables with its Stable Diffusion key maps. Its own requirements
# would replace torch, and a requirements file cannot say --no-deps.
$(VENV)/dev: $(VENV)/core requirements-dev.txt
	$(VENV)/bin/pip install --quiet --requirement requirements-dev.txt
	$(VENV)/bin/pip install --quiet --no-deps imaginairy==15.0.0
	touch $@
