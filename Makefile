# make demo | test | lint | bench | bench-accuracy: each makes .venv and installs what it needs; a second run skips that.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench bench-accuracy clean
demo: .venv/installed
	$(BIN)/segdiff demo --overwrite

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# TORCH_PYTHON=PYTHON, one that imports torch: PyTorch beside it. The last two take some GB of disk
# (bench_raster --side, bench_regions --size: for less)
bench: .venv/installed
	$(BIN)/python -m tests.benchmarks.bench_network
	$(BIN)/python -m tests.benchmarks.bench_pipeline
	$(BIN)/python -m tests.benchmarks.bench_models
	$(BIN)/python -m tests.benchmarks.bench_raster
	$(BIN)/python -m tests.benchmarks.bench_regions

bench-accuracy: .venv/installed
	$(BIN)/python -m tests.benchmarks.bench_accuracy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"segdiff needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}: name another with make PYTHON=..." if not (3, 11) <= v <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs
