#!/bin/sh
# ruff, clang-format, mypy and stubtest, all of them even when one fails.
set -u
cd "$(dirname -- "$0")/.."
bin=${VENV:-.venv}/bin
status=0
run() {
    echo "lint: $1" >&2
    shift
    "$@" || status=1
}
run "ruff check" "$bin/ruff" check .
run "clang-format" find csrc tests/cpp \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' \) \
    -exec "$bin/clang-format" --dry-run -Werror {} +
run "mypy" "$bin/mypy"
run "stubtest" env MYPYPATH=python "$bin/stubtest" --mypy-config-file pyproject.toml \
    --allowlist scripts/stubtest.allow --ignore-unused-allowlist rnnfast._core
exit "$status"
