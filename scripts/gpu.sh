#!/bin/sh
# On a machine with a GPU: build for that GPU, test the kernels against the oracle, compare and time them beside torch's
# cuDNN, and write JSON. Needs nvcc, CMake, ninja, and a Python with torch (CUDA), pybind11, pytest and hypothesis.
# Usage: sh scripts/gpu.sh [results.json] [pytest arguments...]      PYTHON=python3 BUILD=build/gpu
set -eu
cd "$(dirname -- "$0")/.."
python=${PYTHON:-python3}
build=${BUILD:-build/gpu}
out=${1:-benchmarks/results/cuda.json}
[ $# -eq 0 ] || shift
cmake -S . -B "$build" -G Ninja -DPython_EXECUTABLE="$(command -v "$python")" -DRNNFAST_CUDA=ON \
    -DRNNFAST_CUDA_ARCHITECTURES=native
cmake --build "$build"
cmake --install "$build" --prefix python
export PYTHONPATH=python
status=0
"$python" -m pytest -q tests/test_cuda*.py tests/gpu_arrays.py tests/test_torch_cuda*.py "$@" || status=$?
"$python" benchmarks/gpu.py --out "$out"
exit "$status"
