#!/bin/sh
# Whether there is a CMake that runs (a pyenv shim may not) and is new enough for CMakeLists.txt.
cd "$(dirname -- "$0")/.." && cmake -P cmake/version.cmake >/dev/null 2>&1
