# `make test` and `make demo` do all the set-up on a fresh machine: python3 (3.11 to 3.13) and make are enough.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# A CPU step asks for its memory anew; in huge pages that takes a tenth of the time or less off it (glibc, else ignored).
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: test test-slow demo lint

test: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/dev
	$(RUN) -m pytest --slow

demo: $(VENV)/core
	$(HUGE_PAGES) $(RUN) -m magicvideo_jax.train --config=configs/t2v.py --workdir=runs/demo

# Not part of `test`: at its first run pyright fetches its own program through npm.
lint: $(VENV)/dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/pyright

$(VENV)/core: requirements.txt pyproject.toml
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
