#!/bin/sh
# Set up, then run the tests on all processors with the given pytest arguments (-n0: one after the other, as --pdb
# needs it). TORCH=1: with torch, and no torch test may be skipped.
set -eu
cd "$(dirname -- "$0")/.."
venv=${VENV:-.venv}
torch=${TORCH:-}
[ "$torch" = 0 ] && torch=

# shellcheck disable=SC2086  # an empty TORCH is no argument
VENV=$venv sh scripts/setup.sh package test ${torch:+torch}

results=$venv/test-results.xml
status=0
RNNFAST_REQUIRE_TORCH=${torch:+1} "$venv/bin/python" -m pytest -n auto --dist worksteal \
    --junitxml="$results" "$@" || status=$?
if [ -n "$torch" ]; then
    "$venv/bin/python" scripts/no_torch_skips.py "$results" || status=1
elif ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    echo "torch is not installed, so parity with it was not tested. make test TORCH=1 installs it;" \
        "for a CPU build: pytorch.org, Get started"
fi
exit "$status"
