"""The GPU kernels as nvcc compiles them and as they are launched: registers and shared memory as docs/cuda.md has them,
no spills, no warnings, not too many."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from cases import CELLS
from emulated import emulating, needs_device
from rnnfast import cuda, lm
from rnnfast import reference as ref

ROOT = Path(__file__).resolve().parent.parent
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")


def script():
    spec = importlib.util.spec_from_file_location("kernel_registers", ROOT / "scripts" / "kernel_registers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented() -> list[tuple[str, int, int, int, int]]:
    text = Path(ROOT, "docs", "cuda.md").read_text()
    rows = re.findall(r"^\| `([\w<>, ]+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.M)
    return sorted((name, *map(int, numbers)) for name, *numbers in rows)


def shared_memory() -> dict:
    """The functions of the page, by kernel, and `others`."""
    block = re.search(r"```python\n(def up.*?)```", Path(ROOT, "docs", "cuda.md").read_text(), re.S).group(1)
    names: dict = {}
    exec(block, names)
    return names


def test_there_are_at_most_64_kernels_and_none_spills():
    rows = documented()
    assert 40 <= len(rows) <= 64
    assert all(spilled == stack == shared == 0 and registers <= 255 for _, registers, spilled, stack, shared in rows)


@needs_device
@pytest.mark.parametrize("cell", CELLS)
def test_shared_memory_of_the_recurrences_is_as_documented(cell):
    stated, G, seen = shared_memory(), ref.REGISTRY[cell].blocks, set()
    for hidden in (1, 7, 33, 64, 65, 129, 257, 512, 513, 1024):
        for batch, kind, bf16 in itertools.product((1, 3, 40), ("small", "persistent"), (False, True)):
            with emulating("in_order", 0, sms=132):
                plans = cuda._cuda.plan(cell, hidden, batch, kind, bf16=bf16)
            for plan, direction in zip(plans, ("forward", "backward"), strict=True):
                if plan["recurrence"] == "step":
                    continue
                name = f"{'tensor' if bf16 else plan['recurrence']}_{direction}"
                assert plan["shared_bytes"] == stated[name](G, hidden, plan["chunk"]), (name, hidden, batch)
                seen.add(name)
    assert len(seen) == 6


@needs_device
def test_shared_memory_of_the_other_launches_is_as_documented():
    if not cuda._cuda.emulated:
        pytest.skip("a real device does not count its launches")
    cuda._cuda.emulate("in_order")  # from here on
    for options in ({"cell": "gru", "compute_dtype": "bfloat16"}, {"embedding_size": 3, "dropout": 0.5}):
        model = lm.LanguageModel(5, 4, device="cuda", seed=0, **options)
        with cuda.recurrence("step"):
            model.train_step(np.zeros((4, 3), int), None, rnnfast.optim.Adam(1e-2), clip_norm=1.0, clip_value=1.0)
    launched = cuda._cuda.emulated_launches()
    own = {row[0] for row in documented() if "<" not in row[0]}
    assert own <= launched.keys()
    assert {name: bytes for name, bytes in launched.items() if bytes} == shared_memory()["others"]


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
    assert not any(kernel.spilled or kernel.stack or kernel.shared for kernel in found)
    if arch == "sm_90":
        assert [tuple(kernel) for kernel in found] == documented()
