# Targets that set themselves up: test, test-kernels, test-tools, test-sanitized, test-cpu-wheel, test-packages, lint, demo, bench,
# bench-ops, study.
# For hours: verify, fuzz, mutation. Also: setup, clean.
# Variables: PYTHON, VENV, TORCH (what pip installs), PYTEST_ARGS, BENCH_ARGS, DEMO_ARGS, STUDY_ARGS.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1
PYTEST_ARGS ?=
BENCH_ARGS ?= run --output out/bench.csv
DEMO_ARGS ?=
STUDY_ARGS ?= degradation

BIN := $(VENV)/bin
# Builds look for ninja on the path, and two versions of it discard each other's logs.
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# timm needs torchvision, which has to match torch to the patch release: it comes where torchvision does.
TIMM := $(if $(findstring torchvision,$(TORCH)),timm==1.0.31)
TOOL := tools/gpu_on_cpu
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.* csrc/*/*.*) $(TOOL)/src/gpu_on_cpu/cpp/cuda/portable.h

KERNEL_TESTS := tests/triton tests/cuda
SANITIZED := tests/cpu/test_sanitized.py

.PHONY: setup test test-kernels test-tools test-sanitized test-cpu-wheel test-packages verify fuzz mutation lint demo bench bench-ops study clean

setup: $(VENV)/.package

# torch comes first and alone, then holds still: whatever is installed later is held to constraints.txt.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet 'pip>=25,<27'
	$(PIP) install --quiet $(TORCH)
	$(PIP) freeze | grep -E '^(torch|torchvision)==' > $(VENV)/constraints.txt
	$(PIP) install --quiet -c $(VENV)/constraints.txt 'setuptools>=77' wheel ninja pybind11
	touch $@

$(VENV)/.package: $(VENV)/.torch $(SOURCES)
	$(PIP) install --quiet -c $(VENV)/constraints.txt --no-build-isolation \
	  -e '.[demo,bench,study,examples,test,lint]' $(TIMM)
	touch $@

$(VENV)/.tools: $(VENV)/.package $(TOOL)/pyproject.toml
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e '$(TOOL)[test]'
	touch $@

# One thread per worker: two workers of two threads each fight over the cores. Tests that want more do not spin.
test: $(VENV)/.package
	FUSED_RESNET_REQUIRE_EXTENSION=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	  $(BIN)/python -m pytest -n 2 --benchmark-disable \
	  $(addprefix --ignore=,$(KERNEL_TESTS) $(SANITIZED)) $(PYTEST_ARGS)

# The GPU kernels: their generated code executed on the CPU, and the interpreter. No GPU is needed; CUDA C++ needs nvcc.
test-kernels: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(KERNEL_TESTS) $(PYTEST_ARGS)

# The tool that executes GPU kernels, and other people's kernels with it; needs nvcc. Downloads what it runs.
test-tools: $(VENV)/.tools
	cd $(TOOL) && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest -n 2 $(or $(PYTEST_ARGS),--all-forms)

# The CPU ops under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of their own.
test-sanitized: $(VENV)/.package
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest $(SANITIZED) --all-dtypes $(PYTEST_ARGS)

# Another torch: a CPU build where the package index has one, without torchvision and timm; what depends on it most.
test-cpu-wheel:
	$(MAKE) test VENV=.venv-cpu TORCH=torch==2.13.0 \
	  PYTEST_ARGS="$(or $(PYTEST_ARGS),$(addprefix tests/test_,ops.py blocks.py compile.py export.py packaging.py cpu_backend.py cuda_backend.py selftest.py tuning.py) \
	    tests/cpu/test_blocks.py tests/cpu/test_matrix_engine.py tests/cpu/test_chain.py)"

# What users install, each into a fresh environment and tried outside of the checkout: the source distribution beside a CPU build
# of torch, the wheel beside VENV's. Whatever an earlier build left in build/lib* would be packed, too.
test-packages: $(VENV)/.package
	rm -rf dist build/lib*
	$(PIP) install --quiet -c $(VENV)/constraints.txt build
	$(BIN)/python -m build --quiet --no-isolation --sdist --wheel --outdir dist
	$(BIN)/python tests/packaging/contents.py dist
	FUSED_RESNET_CUDA=0 $(BIN)/python tests/packaging/install.py dist/*.tar.gz torch==2.13.0
	$(BIN)/python tests/packaging/install.py dist/*.whl $(TORCH)

# Every kernel in every number format and configuration, on every architecture; its resources; its traffic.
verify: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(KERNEL_TESTS) --all-dtypes $(PYTEST_ARGS)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest tests/cpu/test_instruction_sets.py $(SANITIZED) --all-dtypes $(PYTEST_ARGS)
	for dtype in bf16 fp16 fp32; do $(BIN)/python -m fused_resnet.analysis kernels --dtype $$dtype || exit 1; done
	$(BIN)/python -m fused_resnet.analysis traffic --batch 32
	$(BIN)/python -m fused_resnet.analysis traffic --network resnet50 --batch 1 --size 224

fuzz: $(VENV)/.tools
	$(BIN)/python -m pytest --hypothesis-profile=long tests/test_ops.py tests/cpu/test_fuzz.py tests/triton/test_interpreter.py $(PYTEST_ARGS)
	cd $(TOOL) && $(abspath $(BIN))/python -m pytest --hypothesis-profile=long tests/test_fuzz.py $(PYTEST_ARGS)

# Breaks kernels on purpose: ours, and those that the tool is tried on.
mutation: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m fused_resnet.analysis mutation
	cd $(TOOL) && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m gpu_on_cpu mutate examples/resnet/cases.py \
	  --kernels conv1x1_stats,conv3x3_s1,bn_backward_reduce --count 40 --least 0.95

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd $(TOOL) && $(abspath $(BIN))/mypy && $(abspath $(BIN))/lint-imports

demo: $(VENV)/.package
	$(BIN)/fused-resnet demo $(DEMO_ARGS)

bench: $(VENV)/.package
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# The same works one by one through pytest-benchmark.
bench-ops: $(VENV)/.package
	$(BIN)/python -m pytest benchmarks $(PYTEST_ARGS)

# The paper's experiments; an hour on two cores, resumed where it was interrupted.
study: $(VENV)/.package
	$(BIN)/python -m fused_resnet.study $(STUDY_ARGS)

# Leaves the virtual environments, which are gigabytes to fetch again.
clean:
	rm -rf build dist out *.egg-info fused_resnet/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf $(TOOL)/src/*.egg-info $(TOOL)/.pytest_cache $(TOOL)/.mypy_cache $(TOOL)/.hypothesis
	rm -f .venv*/.package .venv*/.tools
	find benchmarks examples fused_resnet tests tools -name __pycache__ -prune -exec rm -rf {} +
