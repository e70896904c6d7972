# make demo: a trained scene and pictures on any machine, in minutes.   make test: the tests.   make test-slow: all of them.
# make test-gpu: the GPU tests.   make sanitize-gpu: the same under compute-sanitizer, fewer of them.
# make sanitize: the blend's and the loss's CUDA kernels on the CPU, under GCC's sanitizers.
PYTHON ?= python3
BIN := .venv/bin
CPP := $(shell find distwar_kernels tests -name "*.cpp" -o -name "*.cu" -o -name "*.cuh" -o -name "*.h")

.PHONY: demo test test-slow test-gpu test-gpu-fallbacks sanitize sanitize-gpu clean

demo: .venv/ready
	$(BIN)/python scripts/make_demo_scene.py data/demo
	$(BIN)/python train.py --config configs/demo.yaml
	$(BIN)/python render.py output/demo --path ellipse --frames 60 --depth
	@echo "open output/demo/report.html in a browser: numbers, curves, pictures, and the model to turn"

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

test-slow: TESTS := --slow
test-slow: test

# On a machine with a CUDA GPU. PYTHON's own packages are used: torch must be a CUDA build.
test-gpu:
	$(PYTHON) -m pytest -m gpu

# The same kernels as a GPU of compute capability 7.5 gets them: without what newer ones have.
test-gpu-fallbacks:
	TORCH_CUDA_ARCH_LIST=7.5+PTX $(PYTHON) -m pytest -m gpu tests/test_blend.py tests/test_spheres.py \
		tests/test_photometric.py tests/test_fused.py tests/test_lazy_adam.py tests/test_noise.py

sanitize: .venv/ready
	$(BIN)/python tests/emulated_blend.py thread
	$(BIN)/python tests/emulated_blend.py address
	$(BIN)/python tests/emulated_photometric.py thread
	$(BIN)/python tests/emulated_photometric.py address

# Every kernel variant on a few random scenes. Each allocation by itself, so that a read past its end is seen.
SANITIZED_NAMES := many_seeds or absgrad or policies or counts or broken or needles or extreme
SANITIZED_NAMES += or error or displacements or formula
SANITIZED := -m gpu --seeds 8 -k "$(SANITIZED_NAMES)" \
	tests/test_blend.py tests/test_spheres.py tests/test_photometric.py tests/test_reduction.py tests/test_traffic.py \
	tests/test_fused.py tests/test_noise.py tests/test_lazy_adam.py
# Fifty steps of training with growth, resets, reordering and all degrees.
SANITIZED_STEPS := train.py -s data/demo -m output/sanitized --iterations 50 --quiet --set log.every=10 \
	--set model.sh_degree_interval=10 --set densification.start=4 --set densification.every=10 \
	--set densification.opacity_reset_every=20 --set densification.order_every=15
SANITIZE := compute-sanitizer --error-exitcode 1 --target-processes all
sanitize-gpu: data/demo
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZE) --tool memcheck $(PYTHON) -m pytest $(SANITIZED)
	$(SANITIZE) --tool racecheck $(PYTHON) -m pytest $(SANITIZED)
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZE) --tool memcheck $(PYTHON) $(SANITIZED_STEPS)
	$(SANITIZE) --tool racecheck $(PYTHON) $(SANITIZED_STEPS)

data/demo:
	$(PYTHON) scripts/make_demo_scene.py data/demo

.venv/ready: requirements.txt tests/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt -c constraints.txt
	touch $@

clean:
	rm -rf .venv output/demo data/demo
