#!/bin/sh
# Say what this machine lacks to build rnnfast: one line for each missing thing, with the command that installs it.
# Usage: sh scripts/preflight.sh [python]      Exit status: 0 when nothing is missing, 1 otherwise.
python=${1:-${PYTHON:-python3}}
missing=0

# What is missing, then the packages of Debian, Fedora and macOS.
report() {
    missing=1
    echo "missing: $1. Debian: sudo apt install $2; Fedora: sudo dnf install $3; macOS: $4" >&2
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
if [ -z "$version" ]; then
    report "Python >= 3.10 ($python does not run; another: PYTHON=python3.12)" python3 python3 "brew install python"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    report "Python >= 3.10 ($python is $version; another: PYTHON=python3.12)" python3 python3 "brew install python"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        report "the venv module of $python" "python$version-venv" "python3" "brew install python"
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null ||
        report "the headers of $python (Python.h)" "python$version-dev" "python3-devel" "brew install python"
fi

# The first compiler that CMake would take, and a program that needs C++20 and its library.
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
printf '%s\n' '#include <bit>' '#include <concepts>' '#include <span>' \
    'template <std::integral T> constexpr int bits(T x) { return std::popcount(static_cast<unsigned>(x)); }' \
    '#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 11' '#error too old' '#endif' \
    'int main() { int a[3] = {1, 2, 4}; return bits(std::span(a).size()) - 2; }' >"$folder/trial.cpp"
compiler=
for candidate in ${CXX:-c++ g++ clang++}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    compiler=$candidate
    if "$candidate" -std=c++20 -o "$folder/trial" "$folder/trial.cpp" 2>/dev/null; then
        compiler=ok
        break
    fi
done
if [ -z "$compiler" ]; then
    report "a C++20 compiler (none of: ${CXX:-c++ g++ clang++})" g++ gcc-c++ "xcode-select --install"
elif [ "$compiler" != ok ]; then
    report "a C++20 compiler ($compiler is older than GCC 11 or clang 14; another: CXX=...)" g++ gcc-c++ \
        "xcode-select --install"
fi

[ "$missing" = 0 ]
