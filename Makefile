# Two commands for a newcomer: `make demo` and `make test`. Both install what they need into $(VENV).
VENV ?= .venv
PYTHON ?= python3
# A CPU build of PyTorch; on a machine with a GPU give the build of your driver, for example TORCH=torch==2.11.0
TORCH ?= torch==2.13.0
RUN := $(VENV)/bin/python
# Threads that wait give their core away: a second program on the machine would otherwise slow both down many times.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test native environment lint clean

environment: $(VENV)/complete

$(VENV)/complete: requirements.txt gs-ir/setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(TORCH)
	$(VENV)/bin/pip install --quiet -r requirements.txt
	$(VENV)/bin/pip install --quiet --no-build-isolation --editable gs-ir
	touch $@

native: environment
	$(RUN) -m gs_ir.build

demo: native
	$(RUN) -m workflows.demo

lint: environment
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: native lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal

clean:
	rm -rf gs-ir/gs_ir/lib gs-ir/build .pytest_cache .mypy_cache .ruff_cache
