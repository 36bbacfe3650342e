"""The GPU kernels against the float64 oracle: every recurrence, cell, direction, lengths and resets, at odd sizes,
forward and all gradients. On a machine without a GPU they run on the emulated device of a build with
RNNFAST_CUDA=EMULATE, which raises for a race, a barrier that not all come to, or an access out of bounds: each case in
two schedules, whose bits must be the same (eight in `make test-all`)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cases import CELLS, Case, assert_same, build, make_layer, oracle, run
from emulated import SCHEDULES, access_counts, emulating, needs_device, sms
from rnnfast import cuda
from scales import assert_single

pytestmark = needs_device

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
    Case("", 3, 2, 1, 32),
    Case("", 4, 1, 5, 20, reset=True, layers=2),
    Case("", 6, 3, 129, 3, lengths="random", state=False),
    Case("", 9, 7, 7, 4, bidirectional=True, lengths="positive", bias=False),
    Case("", 4, 21, 2, 9, layers=2, lengths="random", bidirectional=True, dropout=0.2),
    Case("", 3, 5, 17, 40, tokens=True, reset=True, lengths="random", layers=2),
    Case("", 33, 1, 1, 3, bidirectional=True),
    Case("", 2, 2, 3, 65, reset=True),
    Case("", 5, 6, 4, 8, lengths="full", tokens=True),
    Case("", 8, 4, 3, 12, layers=2, lengths="random", reset=True, state=False),
    Case("", 2, 70, 2, 16, lengths="random"),
    Case("", 3, 90, 3, 4, tokens=True),  # more than 256 rows
]
# What only the persistent kernels and `step` can hold: each of their three sizes.
LARGE = [
    Case("", 3, 2, 3, 129),
    Case("", 2, 5, 3, 260, lengths="random", reset=True, bidirectional=True),
    Case("", 2, 9, 2, 257, lengths="random"),
    Case("", 2, 1, 2, 520),
    Case("", 3, 3, 2, 515, reset=True),
    Case("", 2, 40, 2, 64, reset=True),  # on two SMs: so many sequences a block that they come in parts, and in turns
]


def cases_of(cell: str, kind: str) -> list[Case]:
    few = [dataclasses.replace(case, cell=cell) for case in SIZES + (LARGE if kind != "small" else [])]
    return [c if cell != "rnn_relu" else dataclasses.replace(c, T=min(c.T, 3), bias=True) for c in few]


ALL = [
    pytest.param(kind, case, id=f"{kind}-{cell}-{n}")
    for kind in KINDS
    for cell in CELLS
    for n, case in enumerate(cases_of(cell, kind))
]


@pytest.mark.parametrize("kind, case", ALL)
def test_against_the_oracle(kind, case):
    problem, first = build(case), None
    for schedule, seed in SCHEDULES:
        with emulating(schedule, seed, sms(case)), cuda.recurrence(kind):
            plans = cuda._cuda.plan(case.cell, case.H, case.B, kind)
            assert [plan["recurrence"] for plan in plans] == [kind, kind]
            got = run(problem, "float32", make_layer(problem, "float32", device="cuda"))
        if first is None:
            assert_single(problem, got, lambda: oracle(problem, np.float32))
            first = got
        assert_same(got, first)


def test_there_are_three_hundred_cases():
    assert len(ALL) >= 300


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_kept_gives_the_same_bits(cell, kind):
    problem = build(Case(cell, 4, 3, 5, 19, layers=2, lengths="random", reset=True, dropout=0.3))
    layer = make_layer(problem, "float32", device="cuda")
    x = problem.x.astype(np.float32)
    with cuda.recurrence(kind):
        y, _, cache = layer.forward(x, lengths=problem.lengths, reset=problem.reset)
        dy = np.ones_like(y)
        results = []
        for keep in (True, False):  # and gradients that are added to zeros, or take the place of what is there
            if keep:
                layer.zero_grad()
            dx, dstate = layer.backward(dy, None, cache, keep_cache=keep, accumulate=keep)
            results.append({"dx": dx, **{name: grad.numpy() for name, grad in layer.grads.items()}})
    assert_same(*results)
    with pytest.raises(ValueError, match="cache must not have been used"):
        layer.backward(dy, None, cache)


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(cell):
    """Of the recurrence; tokens, because cuBLAS, which multiplies other inputs, chooses its order by their number."""
    problem = build(Case(cell, 3, 11, 5, 33, state=False, tokens=True))
    layer = make_layer(problem, "float32", device="cuda")
    for kind in ("small", "persistent"):
        with cuda.recurrence(kind):
            whole, _ = layer(problem.x)
            for b in (0, 10):
                alone, _ = layer(problem.x[:, b : b + 1])
                assert np.array_equal(alone[:, 0], whole[:, b]), kind


def test_sizes_that_fit_nowhere_take_steps():
    assert [p["recurrence"] for p in cuda._cuda.plan("lstm", 1025, 4, "persistent")] == ["step", "step"]
    assert [p["recurrence"] for p in cuda._cuda.plan("lstm", 300, 4, "small")] == ["step", "step"]
    if cuda._cuda.emulated:
        with emulating("in_order", 0, sms=1):  # eight resident blocks, nine groups of units
            assert [p["recurrence"] for p in cuda._cuda.plan("lstm", 129, 1, "persistent")] == ["step", "step"]


# Read once a launch: R's columns into registers (backward); and the words of the barrier of a group of blocks.
ONCE_OR_ONE_WORD = ("persistent_backward<", "GridBarrier")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind, hidden", [("small", 64), ("persistent", 128), ("persistent", 288), ("step", 64)])
def test_accesses_of_a_step_have_no_bank_conflicts_and_whole_sectors(cell, kind, hidden):
    if not cuda._cuda.emulated:
        pytest.skip("a real device does not count them")
    layer = make_layer(build(Case(cell, 2, 8, 32, hidden)), "float32", device="cuda")
    x = np.ones((2, 8, 32), np.float32)

    def step():
        with cuda.recurrence(kind):
            y, _, cache = layer.forward(x)
            layer.backward(y, None, cache)

    counts = access_counts(step)
    assert any(shared for _, shared, *_ in counts) == (kind != "step")
    for source, shared, _, _, passes, ideal, sectors, useful in counts:
        if shared:
            assert passes == ideal, f"bank conflicts: {source}"
        elif not any(name in source for name in ONCE_OR_ONE_WORD):
            assert useful >= 0.9 * 32 * sectors, f"sectors: {source}"


def test_past_the_end_nothing_is_looked_at():
    problem = build(Case("lstm", 6, 7, 5, 9, layers=2, bidirectional=True, lengths="random", reset=True))
    expected = run(problem, "float32", make_layer(problem, "float32", device="cuda"))
    problem.x = np.where(problem.valid, problem.x, np.inf)
    problem.dy = np.where(problem.valid, problem.dy, -3e30)
    assert_same(run(problem, "float32", make_layer(problem, "float32", device="cuda")), expected)
