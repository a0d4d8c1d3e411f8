# Every target makes what it needs. To choose the interpreter and the virtual environment's directory:
#     make test PYTHON=python3.12 VENV=.venv312
PYTHON ?= python3
VENV ?= .venv
AOT_VENV ?= .venv-aot
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# uv takes seconds where pip takes minutes. It does not read pip's settings: where those name another index, pip takes over.
comma := ,
install = @echo "installing $(2) into $(VENV) ..."; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable "$(1)" || \
	{ echo "uv failed; trying pip ..."; $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable "$(1)"; }
# A worker takes a file at a time, in the order in which tests/conftest.py puts them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
COVERAGE := --cov=dnabert2_jax --cov-report=term:skip-covered --cov-fail-under=98
# Memory in pages of 2 MB, which takes about a tenth off a training step on a CPU. glibc 2.35 or later asks the kernel for them
# if its transparent_hugepage/enabled says madvise; anything else ignores the variable. A setting that is already there comes
# last and wins.
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1$(if $(GLIBC_TUNABLES),:$(GLIBC_TUNABLES))

# Tests start many commands; without bytecode on disk, each of them would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help quickstart install dev test test-all coverage aot check links docs dist pins clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.package ## install, then the whole job on real yeast DNA, from tokenizer to test scores
	$(HUGE_PAGES) $(BIN)/dnabert2 quickstart --workdir runs/quickstart
	@echo "to use the dnabert2 command: source $(BIN)/activate"

install: $(VENV)/.package ## the package and its requirements in $(VENV)

dev: $(VENV)/.dev ## the same, plus the tools for tests, checks, and documentation

test: $(VENV)/.dev ## all tests except the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## all tests
	$(PYTEST) $(PYTEST_ARGS)
	PJRT_NPROC=8 $(PYTEST) tests/kernels/test_attention.py -k mosaic_gpu

coverage: $(VENV)/.dev ## the same tests, and the lines they miss; takes longer, least under 3.12 or later
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
		$(PYTEST) -m "not slow" $(COVERAGE) $(PYTEST_ARGS)

aot: ## tests that compile for TPUs and GPUs without having one, in $(AOT_VENV), which takes 2 GB
	@$(MAKE) --no-print-directory $(AOT_VENV)/.aot VENV=$(AOT_VENV)
	JAX_PLATFORMS=cpu $(AOT_VENV)/bin/python -m pytest -m aot $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, format, types, layers, and links inside the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_links.py

links: $(VENV)/.dev ## all links, including those to other sites
	$(BIN)/python tools/check_links.py --external

docs: $(VENV)/.dev ## the documentation in site/; a warning is an error; DNABERT2_RUN_NOTEBOOKS=1 runs notebooks
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs site
	@echo "open site/index.html"

dist: $(VENV)/.dev ## wheel and source archive in dist/; tries the wheel in a fresh environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	tools/try_wheel.sh $(PYTHON) dist/*.whl $(BIN)/uv

pins: $(VENV)/.dev ## renew the versions that images and TPU workers get (launch/requirements-*.txt)
	for accelerator in tpu gpu; do \
		$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra $$accelerator --no-annotate \
			--python-version 3.11 --python-platform x86_64-manylinux_2_31 --custom-compile-command "make pins" \
			--output-file launch/requirements-$$accelerator.txt || exit 1; \
	done

clean: ## remove everything the targets made, except runs/
	rm -rf $(VENV) $(AOT_VENV) build dist site *.egg-info .jupyter_cache jupyter_execute .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) does not run or is older than Python 3.11; choose another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot create a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || true
	@touch $@

# Editable: only new requirements, not a pull or an edit, call for reinstalling.
$(VENV)/.package: $(VENV)/.created pyproject.toml requirements.txt
	$(call install,.,dnabert2_jax and its requirements)
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml requirements.txt
	$(call install,.[dev],dnabert2_jax with its requirements and the development tools)
	@touch $@ $(VENV)/.package

$(VENV)/.aot: $(VENV)/.created pyproject.toml requirements.txt
	$(call install,.[test$(comma)aot],dnabert2_jax with libtpu and the CUDA compiler)
	@touch $@
