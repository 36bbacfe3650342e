"""Backward is the gradient of forward: the compiled layers, in float64, against finite differences of themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tolerances
from cases import CELLS, Case, as_tuple, build, cases, inputs, make_layer, run
from differences import check_gradients

SHAPES = [
    Case("", 1, 1, 1, 1),
    Case("", 7, 2, 16, 17, layers=2),
    Case("", 2, 16, 7, 33, bidirectional=True, lengths="random", reset=True),
    Case("", 7, 7, 2, 7, layers=2, bidirectional=True, lengths="random", reset=True, bias=False),
    Case("", 16, 2, 1, 2, layers=3, lengths="random", reset=True),
    Case("", 2, 1, 129, 64),
    Case("", 1, 33, 33, 16, layers=2, bidirectional=True, lengths="random"),
    Case("", 7, 7, 7, 7, layers=2, bidirectional=True, tokens=True, lengths="random", reset=True),
    Case("", 5, 7, 7, 7, layers=3, bidirectional=True, dropout=0.3, lengths="random"),
]


def check(case: Case, most: int) -> None:
    problem = build(case)
    layer = make_layer(problem, "float64")
    grads = {name[1:]: value for name, value in run(problem, layer=layer).items() if name.startswith("d")}
    x, state, keywords = inputs(problem, "float64")
    states = () if state is None else as_tuple(state)

    def loss() -> float:
        layer.rng.step = problem.rng_step
        y, end, _ = layer.forward(x, state, **keywords)
        total = np.where(problem.valid, y * problem.dy, 0).sum()
        for s, d in zip(as_tuple(end), problem.dstate, strict=True):
            total += (s * d).sum()
        return float(total)

    arrays = dict(layer.params) | {f"{name}0": s for name, s in zip("hc", states, strict=False)}
    if not case.tokens:
        arrays["x"] = x
    assert all(a.dtype == np.float64 for a in arrays.values())
    check_gradients(loss, arrays, grads, tolerances.FD_STEP[case.cell], most)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", SHAPES, ids=range(len(SHAPES)))
def test_against_finite_differences(cell, case):
    case = dataclasses.replace(case, cell=cell)
    check(dataclasses.replace(case, bias=True) if cell == "rnn_relu" else case, most=24)


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=15)
@given(data=st.data())
def test_against_finite_differences_any_shape(cell, data):
    time = data.draw(st.sampled_from((1, 2, 7, 16)))
    check(data.draw(cases(cell, 200_000, T=time)), most=4)
