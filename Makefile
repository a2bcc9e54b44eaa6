# Everything a newcomer and CI need. PYTHON chooses the interpreter the environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOORS := .venv-floors

.PHONY: demo test test-all test-browser test-gpu gpu-wheels test-gpu-bare test-floors check notebooks env clean

env: $(VENV)/.installed

# One CPU build of torch is enough here; a machine with a GPU installs its own build first (see README).
$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --progress-bar off -c .ci/constraints.txt torch torchvision
	$(BIN)/pip install --progress-bar off -c .ci/constraints.txt -e ".[dev]"
	touch $@

demo: env
	$(BIN)/python -m hyperinverter_recipes.demo

# Two processes of one thread each: small networks gain little from a second thread, and each test is alone in its own.
PROCESSES := -n 2 --dist worksteal
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PROCESSES)

test: env
	$(TEST)

test-all: env
	$(TEST) -m "not gpu and not browser"

# The editor in headless Chromium (Debian: apt-get install chromium).
test-browser: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

# On a GPU. HYPERINVERTER_TEST_DEVICE=cpu make test-gpu rehearses the same tests on a processor. OPTIONS="-n 12" where
# there is pytest-xdist: most of the time goes to the references in float64 on the processor.
TEST_GPU := -m pytest -m gpu -W default -rs $(OPTIONS) tests/gpu

test-gpu: env
	$(BIN)/python $(TEST_GPU)

# For a machine with PyTorch and Lightning that reaches no package index: carry this checkout and .gpu-wheels there. The wheels
# are plain Python for 3.10 and later, whatever Python makes them. From the machine come torch 2.4 or later, torchvision,
# pytorch-lightning, torchmetrics, numpy, scipy, pandas, matplotlib, pillow, safetensors, rich, requests, tqdm and pytest.
GPU_WHEELS := annotated-doc 'facenet-pytorch<2.6' 'hydra-core<1.4' lpips 'omegaconf<2.4' platformdirs pooch shellingham typer
gpu-wheels: env
	rm -rf .gpu-wheels
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir .gpu-wheels 'antlr4-python3-runtime==4.9.*'
	$(BIN)/pip download --quiet --no-deps --dest .gpu-wheels --only-binary :all: --python-version 3.10 $(GPU_WHEELS)

test-gpu-bare:
	$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target .gpu-wheels/site .gpu-wheels/*.whl
	PYTHONPATH=$(CURDIR)/.gpu-wheels/site:$(CURDIR)/src $(PYTHON) $(TEST_GPU)

# Exactly the lowest versions that pyproject.toml declares: make test-floors PYTHON=python3.10
# Old releases warn about newer neighbours; that is not a failure.
test-floors:
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/pip install --quiet --upgrade pip
	$(FLOORS)/bin/python .ci/floors.py > $(FLOORS)/floors.txt
	$(FLOORS)/bin/pip install --progress-bar off -c $(FLOORS)/floors.txt -e ".[dev]"
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest $(PROCESSES) -W ignore::DeprecationWarning -W ignore::FutureWarning

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: env
	$(BIN)/python -m pytest -m "not gpu and not browser" tests/runs/test_notebooks.py

clean:
	rm -rf $(VENV) $(FLOORS) .pytest_cache .mypy_cache .ruff_cache
