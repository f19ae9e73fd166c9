# PYTHON=python3.12 make ... picks the interpreter; everything is installed into .venv and nothing outside the clone is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1
EXTRACTOR ?= pixels+logmel
CLIP_WEIGHTS ?=
BEATS_WEIGHTS ?=
# Where pip may find a PyTorch without CUDA: TORCH_INDEX=https://download.pytorch.org/whl/cpu make test
TORCH_INDEX ?=

# Before anything runs: one line where this interpreter will not do.
ifeq ($(wildcard $(BIN)/python),)
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
PROBLEM := $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
  echo "scav-jax needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); PYTHON=python3.12 make ... picks another")
ifeq ($(PROBLEM),)
PROBLEM := $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv")
endif
endif
else ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V))
PROBLEM := $(VENV) holds $(shell $(BIN)/python -V), $(PYTHON) is $(shell $(PYTHON) -V 2>&1): rm -r $(VENV) first
endif
endif
ifneq ($(PROBLEM),)
$(error $(PROBLEM))
endif

.PHONY: help demo announce install test test-heavy bench docs clean

help:
	@echo "make demo [SEEDS=3]   render, extract, train CAV and SCAV, evaluate, report to runs/demo/report.html"
	@echo "                      [EXTRACTOR=clip+beats CLIP_WEIGHTS=FILE BEATS_WEIGHTS=FILE] with pretrained networks"
	@echo "make install          .venv with all that demo, test and bench need"
	@echo "make test             lint, types and tests, at most 15 minutes on two cores"
	@echo "make test-heavy       the tests that take longer"
	@echo "make bench            the tables of benchmarks/results: distances and networks beside their peers, bfloat16,"
	@echo "                      search, PyTorch's numbers and speed, a batch of 8,192, steps for pods, the grids of 36 trainings,"
	@echo "                      and the hard world; five to six hours"
	@echo "make docs             the documentation as a site, with a reference of all public names, to site/index.html"
	@echo "make clean            delete .venv, runs/, site/ and the rendered data"

demo: announce $(VENV)/.media
	@$(BIN)/python demo.py --seeds=$(SEEDS) --extractor=$(EXTRACTOR) $(addprefix --clip-weights=,$(CLIP_WEIGHTS)) \
	  $(addprefix --beats-weights=,$(BEATS_WEIGHTS))

announce: $(BIN)/python
	@echo "$$($(BIN)/python -V) in $(VENV), with jax, flax, optax, orbax, ott-jax, grain, tensorflow-datasets, librosa, PyAV"
	@echo "1 to 2 minutes and 1.5 GB to install what is missing, then 10 to 16 minutes on two cores (two thirds of that more for each seed after the first)"

install: $(VENV)/.bench $(VENV)/references

test: $(VENV)/.test $(VENV)/libtpu $(VENV)/references
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not heavy" --numprocesses=auto --dist=loadfile

test-heavy: $(VENV)/.bench $(VENV)/libtpu $(VENV)/references
	$(BIN)/python -m pytest -m heavy --numprocesses=auto --dist=loadfile

bench: $(VENV)/.bench $(VENV)/libtpu $(VENV)/references demo
	$(BIN)/python -m benchmarks.distances
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.frontier
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.scale
	TPU_LIBRARY_PATH=$(VENV)/libtpu/libtpu/libtpu.so $(BIN)/python -m benchmarks.pods
	$(BIN)/python -m benchmarks.grid
	$(BIN)/python -m benchmarks.hard

# A warning, such as a link that leads nowhere, is an error. mkdocs-material would advertise its successor on every build.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs site data/marimba/world data/marimba/store data/marimba/hard data/marimba/clip+beats

# One stamp an extra of pyproject.toml: installed again when that file changes.
$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "installing scav-jax[$*] into $(VENV) for $$($(BIN)/python -V) "
	@start=$$(date +%s); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix --extra-index-url ,$(TORCH_INDEX)) --editable ".[$*]" && \
	  echo "installed in $$(($$(date +%s) - start)) s"
	@touch $@

# The compiler for TPUs that this JAX wants, where only tests that ask for it find it: beside it JAX would complain on
# every start that there is no TPU.
$(VENV)/libtpu: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ \
	  "$$($(BIN)/python -c 'from importlib.metadata import requires; print(*(r.partition(";")[0] for r in requires("jax") if r.startswith("libtpu")))')"
	@touch $@

# Other people's networks, which ours are compared with. Beside the environment and without what they ask for: of each
# one file is used, and their dependencies are PyTorch builds for CUDA.
$(VENV)/references: Makefile | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ \
	  open_clip_torch==3.3.0 openbeats==0.1.1 torchaudio==2.11.0
	@touch $@

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
