#!/bin/sh
# Make a wheel in dist/ and try it as a user would: in a fresh environment, with no compiler on PATH, in another folder.
# On Linux auditwheel gives it the oldest manylinux tag that its symbols allow. It carries libgomp.so.1 under its plain
# name (rnnfast/_openmp.py says when that is used), so auditwheel is told to leave that name alone.
set -eu
cd "$(dirname -- "$0")/.."
root=$(pwd)
venv=${VENV:-.venv}
case $(uname -s) in
Linux) linux=1 repair=wheel ;;
*) linux= repair= ;;
esac
# shellcheck disable=SC2086  # empty on other systems
sh scripts/setup.sh $repair
python=$venv/bin/python
isolation=
if sh scripts/have_cmake.sh; then
    sh scripts/setup.sh build
    isolation=--no-build-isolation
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "wheel: building" >&2
PATH=$root/$venv/bin:$PATH
CMAKE_BUILD_PARALLEL_LEVEL=$(getconf _NPROCESSORS_ONLN)
export PATH CMAKE_BUILD_PARALLEL_LEVEL
# Without GPU kernels; a wheel with them is RNNFAST_CUDA=ON make wheel. (A pip option for it is too new for some.)
SKBUILD_CMAKE_DEFINE="${SKBUILD_CMAKE_DEFINE:+$SKBUILD_CMAKE_DEFINE;}RNNFAST_CUDA=${RNNFAST_CUDA:-OFF}${linux:+;RNNFAST_BUNDLE_LIBGOMP=ON}"
export SKBUILD_CMAKE_DEFINE
# shellcheck disable=SC2086  # none or one
"$python" -m pip wheel --disable-pip-version-check --quiet --no-deps $isolation \
    --wheel-dir "$work/raw" .
mkdir -p dist
rm -f dist/rnnfast-*.whl
if [ -n "$linux" ]; then
    "$python" -m auditwheel repair --plat auto --only-plat --exclude libgomp.so.1 --wheel-dir dist "$work"/raw/*.whl
    "$python" -m auditwheel show dist/rnnfast-*.whl
else
    cp "$work"/raw/*.whl dist/
fi
"$python" scripts/check_wheel.py dist/rnnfast-*.whl

echo "wheel: testing it in a fresh environment without a compiler" >&2
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --disable-pip-version-check --quiet dist/rnnfast-*.whl
cp tests/test_minimal.py "$work/"
cd "$work"
user() { env -i HOME="$work" LANG=C.UTF-8 PATH="$work/venv/bin" "$@"; }
user python test_minimal.py
user rnnfast info
user rnnfast demo --seconds 5 >"$work/sample.txt"
[ -s "$work/sample.txt" ] || { echo "wheel: rnnfast demo printed no text" >&2; exit 1; }
tail -n 5 "$work/sample.txt"
if [ -n "$linux" ]; then
    echo "wheel: testing it where the system's libgomp cannot be loaded" >&2
    mkdir "$work/broken"
    : >"$work/broken/libgomp.so.1"
    user LD_LIBRARY_PATH="$work/broken" python -c '
import rnnfast
with open("/proc/self/maps") as maps:
    assert {line.split()[-1] for line in maps if "libgomp" in line} == {str(rnnfast._openmp.COPY)}
'
    user LD_LIBRARY_PATH="$work/broken" python test_minimal.py
fi
cd "$root"
ls -l dist/rnnfast-*.whl
