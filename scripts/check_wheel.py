"""Check what a wheel holds: python scripts/check_wheel.py dist/rnnfast-*.whl"""

import sys
import zipfile
from pathlib import Path

LIMIT = 5_000_000  # bytes
ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("rnnfast/__init__.py", "rnnfast/_core.pyi", "rnnfast/py.typed", "rnnfast/_version.py")
CUDA_MARKS = (b"cudaMalloc", b"cudaLaunchKernel", b"cublas")  # what a CPU extension has nothing of
UNWANTED = (".cpp", ".h", ".o", ".pyc", ".a")


def complaints(path: Path) -> list[str]:
    """What is wrong with the wheel, one line each."""
    found = []
    size = path.stat().st_size
    if size > LIMIT:
        found.append(f"{size} bytes, more than {LIMIT}")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        found += [f"{name} is missing" for name in NEEDED if name not in names]
        found += [f"{name} does not belong there" for name in names if name.endswith(UNWANTED)]
        extensions = [name for name in names if Path(name).name.startswith("_core.") and name.endswith((".so", ".pyd"))]
        if len(extensions) != 1:
            found.append(f"one extension expected, got {extensions}")
        if "-linux_" in path.name:
            found.append("the tag is linux, not manylinux")
        if "manylinux" in path.name and "rnnfast/_libs/libgomp.so.1" not in names:
            found.append("rnnfast/_libs/libgomp.so.1 is missing")
        marks = [str(ROOT).encode(), str(Path.home()).encode() + b"/"]
        for name in names:
            content = wheel.read(name)
            found += [f"{name} names the folder {mark.decode()}" for mark in marks if mark in content]
        for name in names:
            if Path(name).name.startswith("_cuda.") and b"emulated device" in wheel.read(name):
                found.append(f"{name} is the emulator of a GPU, which is for tests")
        for name in extensions:
            found += [f"{name} names {mark.decode()}" for mark in CUDA_MARKS if mark in wheel.read(name)]
            if b"libgomp-" in wheel.read(name):
                found.append(f"{name} asks for a renamed libgomp")
    return found


def main(paths: list[str]) -> int:
    status = 0
    for path in map(Path, paths):
        found = complaints(path)
        for line in found:
            print(f"{path.name}: {line}", file=sys.stderr)
            status = 1
        if not found:
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, as it should be")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
