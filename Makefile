# The commands of the README. Everything lives in .venv; nothing outside it changes.
PYTHON ?= python3
BIN := .venv/bin
# 'make gpu' does every step even if one fails, and says so at the end. It stops after so
# many seconds, and goes on when called again; all is kept in results/gpu (--out in
# GPU_FLAGS names another folder), and also in $$OUT/gpu.tar.gz if that is set.
GPU_SECONDS ?= 100000

.PHONY: help demo test torture cluster lanes lab gpu check clean
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,gpu]'
	@# Colab's ipywidgets, apart, for the test of every explorer under both
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--upgrade --target .venv/widgets7 ipywidgets==7.7.1 ipython-genutils==0.2.0
	@# Triton's kernels are tested interpreted; CUDA builds of torch bring their own.
	@$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/python -m pip install \
		--quiet --disable-pip-version-check --editable '.[triton]' \
		|| echo "no triton: tests of its kernels are skipped"
	@touch $@

demo: .venv/installed  ## layers x hidden x precision, estimated and measured, here
	@$(BIN)/fastlab calibrate --for data/sweeps/demo.yaml
	@$(BIN)/fastlab run notebooks/05_layers_by_hidden.ipynb -p source measure

test: .venv/installed  ## lint, types, contracts, all tests that need no GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile

torture: .venv/installed  ## 1,000 kills of sweeps and workers, 20 of real ones; fuzz
	FASTLAB_KILLS=1000 FASTLAB_REAL_KILLS=20 FASTLAB_FUZZ=20 $(BIN)/python -m pytest \
		-s --timeout 0 tests/sweeps/test_torture.py tests/test_fuzz.py

cluster: .venv/installed  ## installs Ray into .venv: a sweep that loses a node of a cluster
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[cluster]'
	RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest -s tests/sweeps/test_cluster.py

# torch comes from the constraints in both: its other versions bring CUDA along.
lanes: .venv/installed  ## the tests with the lowest and with the newest dependencies
	@$(BIN)/python benchmarks/environment.py --floors > .venv/lowest.txt
	@grep '^torch==' constraints.txt | tee .venv/newest.txt >> .venv/lowest.txt
	@failed=0; for lane in lowest newest; do \
		$(PYTHON) -m venv .venv/$$lane && .venv/$$lane/bin/python -m pip install --quiet \
			--disable-pip-version-check --upgrade --upgrade-strategy eager \
			--constraint .venv/$$lane.txt --editable '.[dev,gpu]' && \
		.venv/$$lane/bin/python -m pytest -m "not gpu" --ignore tests/browser \
			|| { echo "failed: $$lane"; failed=1; }; \
	done; exit $$failed

lab: .venv/installed  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

gpu:  ## on an NVIDIA GPU: calibration, tests, decode ladders, reference sweep
	@PYTHONPATH=.:$(PYTHONPATH) $(PYTHON) benchmarks/gpu.py --seconds $(GPU_SECONDS) $(GPU_FLAGS)

clean:  ## remove .venv and caches, never results
	rm -rf .venv build *.egg-info .ruff_cache .mypy_cache .import_linter_cache
