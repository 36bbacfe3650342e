#!/bin/sh
# Build under AddressSanitizer and UndefinedBehaviorSanitizer, run the C++ tests, then pytest with the arguments.
# Usage: sh scripts/sanitize.sh tests/test_layers.py -k lstm      (GCC on Linux; what is installed stays as it is)
set -eu
cd "$(dirname -- "$0")/.."
venv=${VENV:-.venv}
build=build-sanitize
jobs=$(getconf _NPROCESSORS_ONLN)
VENV=$venv sh scripts/setup.sh build package test

# Debug keeps the asserts; the kernels are optimised in every kind of build.
PATH="$(cd "$venv" && pwd)/bin:$PATH"
export PATH
mkdir -p $build
cmake -S . -B $build -DCMAKE_BUILD_TYPE=Debug -DRNNFAST_SANITIZE=address,undefined -DRNNFAST_WERROR=ON \
    -DRNNFAST_CPP_TESTS=ON -DRNNFAST_CUDA=EMULATE -DPython_EXECUTABLE="$(command -v python)" >$build/log ||
    { cat $build/log >&2; exit 1; }
cmake --build $build --parallel "$jobs" >>$build/log || { tail -n 40 $build/log >&2; exit 1; }
ctest --test-dir $build --parallel "$jobs" --output-on-failure --no-tests=error
rm -rf $build/site
cmake --install $build --prefix $build/site >>$build/log
cp -R python/rnnfast/. $build/site/rnnfast/

# Python itself is not instrumented, so the runtime comes first by LD_PRELOAD; libstdc++ with it, or exceptions cannot
# be followed. Python never gives its own memory back, so leaks are not looked for. Reports go to the process's own
# standard error, which pytest must not take: what it holds is lost when they end the process.
compiler=${CXX:-c++}
LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONPATH="$(pwd)/$build/site" python -m pytest -p no:cacheprovider --capture=sys "$@"
