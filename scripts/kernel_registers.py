"""Registers, spills and static shared memory of every GPU kernel, as ptxas has them.

    python scripts/kernel_registers.py [--arch sm_90] [csrc/cuda/cell_lstm.cu ...]

Prints the table that docs/cuda.md holds; tests/test_cuda_build.py compares the two. Needs nvcc, no GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WARNING = re.compile(r"warning", re.IGNORECASE)


class Kernel(NamedTuple):
    name: str
    registers: int
    spilled: int  # bytes, stores and loads
    stack: int
    shared: int  # bytes, static


def compile_one(source: Path, arch: str) -> list[Kernel]:
    """The kernels of one source; raises where nvcc warns."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++20", "-O3", "-fmad=false", f"-arch={arch}", "-cubin", "-Xptxas", "-v"]
        done = subprocess.run(
            [*command, "-I", str(ROOT / "csrc"), "-o", str(Path(folder, "out.cubin")), str(source)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode or WARNING.search(done.stderr):
        raise RuntimeError(f"nvcc {source.name}: {done.stderr}")
    kernels = []
    for part in done.stderr.split("Compiling entry function")[1:]:
        stack, *spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", part).groups()
        registers = re.search(r"Used (\d+) registers", part).group(1)
        shared = re.search(r"(\d+) bytes smem", part)
        kernels.append(
            Kernel(
                readable(part.split("'")[1]), int(registers), sum(map(int, spilled)), int(stack),
                int(shared.group(1)) if shared else 0,
            )
        )  # fmt: skip
    return kernels


def readable(mangled: str) -> str:
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|rnnfast::cuda::|rnnfast::|\(\w+\)(?=\d)", "", name)
    return name.removeprefix("void ").split("(")[0]


def compile_all(sources: list[Path], arch: str) -> list[Kernel]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda source: compile_one(source, arch), sources)
    return sorted(kernel for kernels in found for kernel in kernels)


def table(kernels: list[Kernel]) -> str:
    lines = ["| kernel | registers | spilled bytes | stack bytes | static shared bytes |", "|---|---|---|---|---|"]
    rows = [f"| `{k.name}` | {k.registers} | {k.spilled} | {k.stack} | {k.shared} |" for k in kernels]
    return "\n".join(lines + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("sources", nargs="*", type=Path)
    options = parser.parse_args()
    print(table(compile_all(options.sources or sorted(ROOT.glob("csrc/cuda/*.cu")), options.arch)))


if __name__ == "__main__":
    main()
