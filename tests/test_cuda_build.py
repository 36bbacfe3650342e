"""The GPU kernels as nvcc compiles them: registers as docs/cuda.md has them, no spills, no warnings, not too many."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")


def script():
    spec = importlib.util.spec_from_file_location("kernel_registers", ROOT / "scripts" / "kernel_registers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented() -> list[tuple[str, int, int, int]]:
    text = Path(ROOT, "docs", "cuda.md").read_text()
    rows = re.findall(r"^\| `([\w<>, ]+)` \| (\d+) \| (\d+) \| (\d+) \|$", text, re.M)
    return sorted((name, *map(int, numbers)) for name, *numbers in rows)


def test_there_are_at_most_64_kernels_and_none_spills():
    rows = documented()
    assert 40 <= len(rows) <= 64
    assert all(spilled == stack == 0 and registers <= 255 for _, registers, spilled, stack in rows)


@needs_nvcc
def test_the_kernels_outside_of_the_recurrence_are_as_documented():
    module = script()
    found = module.compile_all([ROOT / "csrc" / "cuda" / name for name in ("ops.cu", "rows.cu")], "sm_90")
    expected = [row for row in documented() if row[0] in {kernel.name for kernel in found}]
    assert [tuple(kernel) for kernel in found] == expected


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_all_kernels(arch):
    module = script()
    found = module.compile_all(sorted((ROOT / "csrc" / "cuda").glob("*.cu")), arch)
    assert [kernel.name for kernel in found] == [row[0] for row in documented()]
    assert not any(kernel.spilled or kernel.stack for kernel in found)
    if arch == "sm_90":
        assert [tuple(kernel) for kernel in found] == documented()
