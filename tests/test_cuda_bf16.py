"""Layers on a GPU that compute in bfloat16: the same oracle as the CPU's, on tensor cores and by cuBLAS's steps. Each
case in two schedules of the emulated device, whose bits must be the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rnnfast
from bf16_cases import assert_rounded_alike, floats, relu
from cases import CELLS, PER_CELL, Case, assert_same, build, make_layer, oracle, run
from emulated import SCHEDULES, access_counts, emulating, needs_device
from rnnfast import cuda, lm
from rnnfast import reference as ref

pytestmark = needs_device

KINDS = ("persistent", "step")
PER_KIND = pytest.mark.parametrize("kind", KINDS)

SIZES = [
    Case("", 1, 1, 1, 1),
    Case("", 5, 3, 7, 33, state=False),
    Case("", 4, 2, 5, 64, layers=2, bidirectional=True, bias=False),
    Case("", 7, 9, 3, 17, lengths="random"),
    Case("", 6, 5, 4, 33, lengths="random", reset=True, bidirectional=True),
    Case("", 5, 4, 9, 16, tokens=True, bidirectional=True, lengths="positive"),
    Case("", 4, 3, 6, 13, layers=3, dropout=0.5, bidirectional=True, lengths="random"),
    Case("", 3, 17, 2, 33, reset=True, bidirectional=True),
    Case("", 2, 70, 2, 64, reset=True),  # more sequences a block than it takes at a time
    Case("", 3, 70, 2, 40, lengths="random"),
    Case("", 3, 2, 129, 129, lengths="full", tokens=True),
    Case("", 2, 9, 3, 260, lengths="random", reset=True, bidirectional=True),  # several blocks of k a warp
    Case("", 2, 3, 2, 515, reset=True),
]


def fitted(case: Case, cell: str) -> Case:
    case = dataclasses.replace(case, cell=cell)
    return case if cell != "rnn_relu" else dataclasses.replace(case, T=min(case.T, 3), bias=True)


@PER_KIND
@PER_CELL
@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
def test_against_the_oracle(cell, kind, size):
    case = fitted(size, cell)
    problem, first = build(case), None
    for schedule, seed in SCHEDULES:
        with emulating(schedule, seed, case.H // 64 + 1), cuda.recurrence(kind):  # room for one or two batch groups
            plans = cuda._cuda.plan(case.cell, case.H, case.B, kind, bf16=True)
            assert [plan["recurrence"] for plan in plans] == [kind, kind]
            got = run(problem, "bfloat16", make_layer(problem, "bfloat16", device="cuda"))
        if first is None:
            assert_rounded_alike(got, oracle(problem, compute_dtype="bfloat16"))
            first = got
        assert_same(got, first)


@PER_KIND
def test_operands_are_rounded_to_nearest_even(kind):
    x = floats(2000)
    want = ref.round_bf16(x)
    with cuda.recurrence(kind):
        layer = relu(1, 1, "cuda")
        assert np.array_equal(layer(x[None, :, None])[0].ravel(), want), "x"
        layer.params["weight_hh_l0"].fill(1)
        y, _ = layer(np.zeros((1, len(x), 1), np.float32), x[None, :, None])
        assert np.array_equal(y.ravel(), want), "h before the first step"
        y, _ = layer(np.float32([[[1]], [[0]]]), np.full((1, 1, 1), 2.0**-9))
        assert (y[1] == 1).all(), "h"
        weights = relu(1, 300, "cuda")
        values = weights.params["weight_ih_l0"].numpy()
        values[:, 0] = x[-300:]
        weights.params["weight_ih_l0"][...] = values
        assert np.array_equal(weights(np.ones((1, 1, 1), np.float32))[0].ravel(), want[-300:]), "w"
        assert np.array_equal(weights(np.zeros((1, 1), int))[0].ravel(), want[-300:]), "w of tokens"


@PER_KIND
@PER_CELL
def test_results_are_not_rounded(cell, kind):
    problem = build(Case(cell, 5, 7, 16, 33))
    exact = oracle(problem)
    with cuda.recurrence(kind):
        got = run(problem, "bfloat16", make_layer(problem, "bfloat16", device="cuda"))
    for name, value in got.items():
        assert np.mean(value[value != 0] != ref.round_bf16(value[value != 0])) > 0.7, name
        assert np.abs(value - exact[name]).max() > 1e-4, name


@PER_CELL
def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(cell):
    problem = build(Case(cell, 3, 21, 5, 33, state=False, tokens=True))
    layer = make_layer(problem, "bfloat16", device="cuda")
    with emulating("in_order", 0, sms=1), cuda.recurrence("persistent"):
        whole, _ = layer(problem.x)
        for b in (0, 20):
            alone, _ = layer(problem.x[:, b : b + 1])
            assert np.array_equal(alone[:, 0], whole[:, b])


def test_what_does_not_fit_takes_steps():
    def plans(*arguments):
        return [plan["recurrence"] for plan in cuda._cuda.plan(*arguments, bf16=True)]

    assert plans("lstm", 1025, 4, "persistent") == ["step", "step"]
    assert plans("lstm", 32, 4, "small") == ["step", "step"]
    if cuda._cuda.emulated:
        with emulating("in_order", 0, sms=1):  # eight resident blocks, nine groups of units
            assert plans("lstm", 129, 1, "persistent") == ["step", "step"]
            assert plans("lstm", 64, 1, "automatic") == ["persistent", "persistent"]


@pytest.mark.parametrize("cell, hidden", [*((cell, 128) for cell in CELLS), ("gru", 288)])
def test_accesses_of_a_step_have_no_bank_conflicts_and_whole_sectors(cell, hidden):
    if not cuda._cuda.emulated:
        pytest.skip("a real device does not count them")
    layer = make_layer(build(Case(cell, 2, 8, 32, hidden)), "bfloat16", device="cuda")

    def step():
        with cuda.recurrence("persistent"):
            y, _, cache = layer.forward(np.ones((2, 8, 32), np.float32))
            layer.backward(y, None, cache)

    counts = access_counts(step)
    assert any("tensor_backward" in source and shared for source, shared, *_ in counts)
    for source, shared, _, _, passes, ideal, sectors, useful in counts:
        if shared:
            assert passes == ideal, f"bank conflicts: {source}"
        elif "GridBarrier" not in source:
            assert useful >= 0.9 * 32 * sectors, f"sectors: {source}"


def test_the_language_model_learns_as_on_the_cpu():
    tokens = np.random.default_rng(0).integers(0, 11, (81, 4))
    losses, samples = [], []
    for device in (None, "cuda"):
        model = lm.LanguageModel(11, 9, seed=3, device=device, compute_dtype="bfloat16")
        optimizer, state, own = rnnfast.optim.Adam(1e-2), None, []
        for step in range(20):
            loss, state = model.train_step(tokens[4 * step : 4 * step + 5], state, optimizer, clip_norm=1.0)
            own.append(loss)
        losses.append(own)
        samples.append(model.sample([1, 2], 20, temperature=0))
    assert np.abs(np.subtract(*losses)).max() < 1e-3
