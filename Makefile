# Everything runs in .venv, made at first use. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

# Tests start hundreds of processes: they should not compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast coverage chaos fuzz installs verified gallery screens gpu map site notebooks lint format clean packages rtx triton

demo: .venv/ready  ## train two generators on digits, compile both, sample from the engines (out/demo)
	$(BIN)/python examples/digits/demo.py

test: .venv/ready  ## every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=25

test-fast: .venv/ready  ## every test with its first parameters, without those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --fast

coverage: .venv/ready  ## every test, with the lines it reaches: tracing doubles the time of the interpreter's tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

N ?= 2000
M ?= 100
fuzz: .venv/ready  ## spoilt and crossed specs, damaged files and data, altered twins: N cases of each, and M runs end to end
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --count $(N)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py end_to_end --count $(M)

verified: .venv/ready  ## verify every tiny system in every loop form, and what trains; writes docs/verified.json (an hour)
	OMP_NUM_THREADS=1 $(BIN)/python tests/verified.py --again

chaos: .venv/ready  ## break training and compiling at random moments for five minutes, and check what is left
	$(BIN)/python tests/chaos.py

installs: .venv/ready  ## install the wheel with each extra into a new environment, and use it (10 GB of downloads)
	$(BIN)/python tests/installs.py

gallery: .venv/ready  ## train every system that learns small data, and draw their samples (half an hour)
	$(BIN)/python examples/gallery/gallery.py

screens: .venv/ready  ## draw the pictures of docs/ that show what commands draw (half an hour, nothing else running)
	$(BIN)/python examples/screens/screens.py

gpu: .venv/ready  ## on a machine with an NVIDIA GPU: its tests, then what is measured there (45 minutes; out/gpu)
	$(BIN)/python benchmarks/gpu.py

map: .venv/ready  ## the measured figures of the design, today's beside the goal (a minute)
	OMP_NUM_THREADS=1 $(BIN)/python tests/map.py

site: .venv/ready  ## build docs/ as a site with search, in out/site
	$(BIN)/python docs/site/build.py

notebooks: .venv/ready  ## run the notebooks of examples/notebooks and store their outputs
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	@# Triton's environment is installed at the same time.
	@{ $(MAKE) --no-print-directory triton || echo "without Triton: tests that run its server are skipped"; } & \
	$(MAKE) --no-print-directory packages; status=$$?; wait; exit $$status
	@$(MAKE) --no-print-directory rtx || echo "without TensorRT-RTX: tests that build its plans are skipped"
	touch $@

packages:
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'

# Its package is built where it is installed, with what is there, so it cannot be one of the extras above.
rtx:
	[ "$$(uname -sm)" = "Linux x86_64" ]
	$(BIN)/python -m pip install --quiet setuptools wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation tensorrt-rtx==1.7.1.116

# A Triton server for its tests. Its Python backend needs numpy 1, so it has an environment of its own.
triton:
	[ "$$(uname -sm)" = "Linux x86_64" ]
	$(PYTHON) -m venv .venv/triton
	.venv/triton/bin/python -m pip install --quiet nvidia-pytriton onnxruntime

clean:
	rm -rf .venv out
