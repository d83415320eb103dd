# The two commands are `make book` and `make test`; each sets everything up by itself.
PYTHON ?= python3
PROFILE ?= lab
CHAPTERS ?= notebooks
JOBS ?= $(if $(filter lab,$(PROFILE)),2,1)
WORKERS ?= 2
ORDER := $(or $(ORDER),$(shell date +%s))
BIN := .venv/bin
READY := .venv/.ready
# The CUDA libraries that a resolver adds on Linux: whoever has a GPU gets them with torch, nobody else needs them.
SKIP := $(foreach p,cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton,--no-emit-package $(p))

.DEFAULT_GOAL := help
.PHONY: help book test test-slow test-machines mutate coverage audit serve jupyter chapter screenshots lab lock house clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "This book needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

book: $(READY)  ## Execute every chapter that changed and build the site (PROFILE=lab; JOBS at a time)
	$(BIN)/dm build --profile $(PROFILE) --jobs $(JOBS)

serve: $(READY)  ## Serve the built site at http://localhost:8000/
	$(BIN)/dm serve

jupyter: $(READY)  ## Open the chapters in JupyterLab, on this environment's kernel
	DM_STORE=$(abspath _build/store) DM_TABLES=$(abspath _build/tables) $(BIN)/jupyter lab --ServerApp.root_dir=$(CHAPTERS) \
		--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

chapter: $(READY)  ## Run one chapter: make chapter NB=04_2_error_vectors PROFILE=lab ARGS="-p layer 2"
	$(BIN)/dm chapter $(NB) --profile $(PROFILE) $(ARGS)

# Compiled code is kept, even where the environment says not to: tests start dozens of processes, and each would compile again.
test: $(READY)  ## Check style and types, run the tests in WORKERS=2 processes of one thread each
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra --numprocesses $(WORKERS) $(ARGS)

test-slow: $(READY)  ## Run the tests that take a minute or more each: most are chapters in a real JupyterLab
	$(BIN)/python -m pytest -ra -m slow $(ARGS)

test-machines: $(READY)  ## The suite as other machines run it: older instructions, 1, 2 and 4 threads, random order (an hour or two)
	@for capability in default avx2; do for threads in 1 2 4; do \
		echo "::: $$capability, $$threads threads, ORDER=$(ORDER)"; \
		ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=$$capability OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest -ra \
			--random-order --random-order-seed=$(ORDER) --numprocesses $(WORKERS) $(ARGS) || exit 1; \
	done; done

mutate: $(READY)  ## Plant faults in a module and see whether its tests notice: make mutate MODULE=maths/regression ARGS="--n 20"
	$(BIN)/python tests/mutate.py $(MODULE) $(ARGS)

coverage: $(READY)  ## Print the lines and branches that no test runs, by package: a map, not a target
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --cov-report= --numprocesses $(WORKERS) $(ARGS)
	$(BIN)/python tests/coverage_by_package.py

audit:  ## Look the locked versions up among the known vulnerabilities
	.ci/audit

screenshots: $(READY)  ## Take the README's pictures from the built site (needs Chromium)
	$(BIN)/python tests/screenshots.py

house: $(READY)  ## Draw the picture of the package in CONTRIBUTING.md from its imports
	PYTHONPATH=tests $(BIN)/python tests/draw_house.py

lab: $(READY)  ## Train the lab again, from nothing, into _build/lab (resumes when interrupted; SIZE=256: a rung of the ladder)
	$(BIN)/python -m dm_utils.lab $(if $(SIZE),--size $(SIZE) --work _build/lab_$(SIZE),--work _build/lab) $(ARGS)

lock: $(READY)  ## Resolve requirements.lock again from pyproject.toml
	@test -x _build/uv/bin/uv || { $(PYTHON) -m venv _build/uv && _build/uv/bin/python -m pip install --quiet uv; }
	echo "torch==2.13.0" > _build/constraints.txt
	_build/uv/bin/uv pip compile --universal --python-version 3.11 --extra book --extra jupyter --extra test --no-annotate --no-header \
		--constraint _build/constraints.txt $(SKIP) pyproject.toml --output-file requirements.lock

clean:  ## Remove everything that is generated, except the environment in .venv
	rm -rf _build tables .pytest_cache .mypy_cache .ruff_cache
