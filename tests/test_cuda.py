"""The GPU kernels against the float64 oracle: every recurrence, cell, direction, lengths and resets, at odd sizes, forward
and all gradients. On a machine without a GPU they run on the emulated device of a build with RNNFAST_CUDA=EMULATE."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rnnfast
from cases import CELLS, Case, assert_same, build, make_layer, oracle, run
from rnnfast import cuda
from scales import assert_single

pytestmark = pytest.mark.skipif(not cuda.available(), reason=f"device='cuda' does not work here: {cuda.problem()}")

KINDS = ("small", "persistent", "step")

# Sizes that are odd in every way that a kernel could mind; H is within what `small` can hold of an LSTM.
SIZES = [
    Case("", 1, 1, 1, 1),
    Case("", 5, 3, 7, 33, state=False),
    Case("", 4, 2, 5, 64, layers=2, bidirectional=True, bias=False),
    Case("", 7, 9, 3, 17, lengths="random"),
    Case("", 6, 5, 4, 33, lengths="random", reset=True, bidirectional=True),
    Case("", 3, 7, 33, 7, reset=True, layers=2),
    Case("", 5, 4, 9, 16, tokens=True, bidirectional=True, lengths="positive"),
    Case("", 4, 3, 6, 13, layers=3, dropout=0.5, bidirectional=True, lengths="random"),
    Case("", 17, 2, 2, 2, bidirectional=True, lengths="full", reset=True),
    Case("", 2, 33, 3, 5, lengths="random", reset=True),
    Case("", 3, 17, 2, 33, reset=True, bidirectional=True),
]
# What only the persistent kernel and `step` can hold: each of its three sizes.
LARGE = [
    Case("", 3, 2, 3, 129),
    Case("", 2, 5, 3, 257, lengths="random", reset=True, bidirectional=True),
    Case("", 2, 2, 2, 300, lengths="random"),
    Case("", 2, 1, 2, 515),
]


def cases_of(cell: str, sizes: list[Case]) -> list[Case]:
    few = [dataclasses.replace(case, cell=cell) for case in sizes]
    return [c if cell != "rnn_relu" else dataclasses.replace(c, T=min(c.T, 4), bias=True) for c in few]


ALL = [
    pytest.param(kind, case, id=f"{kind}-{cell}-{n}")
    for kind in KINDS
    for cell in CELLS
    for n, case in enumerate(cases_of(cell, SIZES + (LARGE if kind != "small" else [])))
]


def plans(case: Case, kind: str) -> set[str]:
    return {plan["recurrence"] for plan in cuda._cuda.plan(case.cell, case.H, case.B, kind)}


@pytest.mark.parametrize("kind, case", ALL)
def test_against_the_oracle(kind, case):
    problem = build(case)
    with cuda.recurrence(kind):
        got = run(problem, "float32", make_layer(problem, "float32", device="cuda"))
    assert_single(problem, got, lambda: oracle(problem, np.float32))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_again(cell, kind):
    problem = build(Case(cell, 5, 6, 7, 33, layers=2, bidirectional=True, lengths="random", reset=True, dropout=0.3))
    with cuda.recurrence(kind):
        first, again = (run(problem, "float32", make_layer(problem, "float32", device="cuda")) for _ in range(2))
    assert_same(first, again)
