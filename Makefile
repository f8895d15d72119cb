# Everything runs in .venv, made once from constraints.txt; `make setup` again does nothing until either file changes.
# A machine without a GPU saves gigabytes with TORCH_INDEX set to PyTorch's index of CPU builds.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := chemistry,robotics,slides,vision,audio,test,lint,docs
DEMO := examples/chemistry
WORKERS ?= 2

.PHONY: setup demo demo-robot test lint docs robomimic-venv clean

setup: $(STAMP)

# torch goes first and alone: resolved together with the rest, another and far larger build of it may be taken.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"polydit needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}: make setup PYTHON=python3.11") if v < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[simulators]' || echo "robosuite is left out: it needs a C compiler and the kernel's headers (Debian: gcc linux-libc-dev); its tests are skipped"
	touch $@

demo: setup
	$(BIN)/polydit fit --config $(DEMO)/demo_autoencoder.yaml
	$(BIN)/polydit fit --config $(DEMO)/demo.yaml
	$(BIN)/polydit predict --config $(DEMO)/demo.yaml --ckpt_path runs/demo/checkpoints/last.ckpt

demo-robot: setup
	$(BIN)/polydit fit --config examples/robotics/demo.yaml
	$(BIN)/polydit test --config examples/robotics/demo.yaml --ckpt_path last

# robomimic brings its own torch and torchvision, so the tests against it have an environment of their own.
robomimic-venv: .venv-robomimic/.installed

.venv-robomimic/.installed: constraints.txt
	$(PYTHON) -m venv .venv-robomimic
	.venv-robomimic/bin/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	.venv-robomimic/bin/pip install --quiet --constraint constraints.txt numpy h5py six "cmake<4" setuptools wheel
	PATH="$(CURDIR)/.venv-robomimic/bin:$$PATH" .venv-robomimic/bin/pip install --quiet --no-build-isolation robomimic==0.3.0
	.venv-robomimic/bin/pip install --quiet --constraint constraints.txt gymnasium mujoco metaworld msgpack websockets
	touch $@

# As many tests at once as there are workers, a thread each; the tests of one file stay together and share what they set up.
# A worker that dies ends the run: with another in its place, tests of the same file may never be handed out.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

# Leaves runs/ alone: what was trained is not rubbish.
clean:
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
