"""The compiled layers compute what the oracle computes: every cell, odd sizes, layers, directions, lengths, resets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import (
    CELLS,
    PER_DTYPE,
    Case,
    assert_close,
    assert_same,
    build,
    cases,
    difference,
    inputs,
    make_layer,
    misaligned,
    oracle,
    plain,
    run,
)
from scales import assert_single

# Sizes that hypothesis may not meet, one for each way to share work among threads and panels.
NOTABLE = [
    Case("", 1, 1, 1, 1),
    Case("", 33, 1, 17, 129, layers=2),
    Case("", 7, 129, 16, 33, lengths="random", reset=True),
    Case("", 17, 64, 64, 64, bidirectional=True, tokens=True, lengths="random"),
    Case("", 129, 2, 7, 16, layers=3, lengths="random", reset=True, bias=False),
    Case("", 2, 17, 129, 129, layers=2, bidirectional=True, lengths="full"),
    Case("", 16, 7, 33, 17, layers=2, bidirectional=True, lengths="random", reset=True, dropout=0.5),
    Case("", 2, 70, 515, 300, lengths="random"),
    Case("", 2, 5, 3000, 129, layers=2, tokens=True),
    Case("", 150, 20, 3, 5, bidirectional=True, lengths="random"),
    Case("", 3, 13, 70, 1100),  # weights of a few panels do not fit L2
]


def notable(cell: str) -> list[Case]:
    few = [dataclasses.replace(case, cell=cell) for case in NOTABLE]
    return [case if cell != "rnn_relu" else dataclasses.replace(case, T=min(case.T, 7), bias=True) for case in few]


ALL_NOTABLE = [pytest.param(case, id=f"{cell}-{n}") for cell in CELLS for n, case in enumerate(notable(cell))]


@pytest.mark.isa
@pytest.mark.parametrize("case", ALL_NOTABLE)
def test_float64_against_the_oracle_notable(case):
    problem = build(case)
    assert_close(run(problem), oracle(problem), tolerances.ORACLE64, str(case))


@pytest.mark.isa
@pytest.mark.parametrize("case", ALL_NOTABLE)
def test_float32_against_the_oracle_notable(case):
    problem = build(case)
    assert_single(problem, run(problem, "float32"), lambda: oracle(problem, np.float32))


@pytest.mark.isa
@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_float64_against_the_oracle(cell, data):
    problem = build(data.draw(cases(cell)))
    assert_close(run(problem), oracle(problem), tolerances.ORACLE64, str(problem.case))


@pytest.mark.isa
@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_float32_against_the_oracle(cell, data):
    problem = build(data.draw(cases(cell)))
    assert_single(problem, run(problem, "float32"), lambda: oracle(problem, np.float32))


# --- Lengths and resets -----------------------------------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tokens", [False, True])
def test_padding_changes_no_bit(cell, dtype, tokens):
    """Whatever lies past the end of a row: NaN, infinity, tokens that are none, resets."""
    case = Case(cell, 9, 7, 17, 33, layers=2, bidirectional=True, lengths="random", reset=True, tokens=tokens)
    problem = build(dataclasses.replace(case, cell="rnn_tanh") if cell == "rnn_relu" else case)
    if cell == "rnn_relu":  # the kink does not matter here
        problem.case = case
    expected = run(problem, dtype)
    for fill in (0.0, np.inf, -3e30):
        outside = 10**6 if tokens and fill else fill
        problem.x = np.where(problem.valid[..., 0] if tokens else problem.valid, problem.x, outside)
        problem.dy = np.where(problem.valid, problem.dy, fill)
        problem.reset = problem.reset | ~problem.valid[..., 0]
        if tokens:
            problem.x = problem.x.astype(np.int64)
        assert_same(run(problem, dtype), expected)


@pytest.mark.isa
@pytest.mark.parametrize("hidden", [5, 15, 16])
@pytest.mark.parametrize("compute", [None, "bfloat16"])
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])
def test_infinity_saturates_whatever_the_hidden_size(cell, compute, hidden):
    """A unit's numbers do not depend on what lies beside them in a vector of the processor."""
    problem = build(Case(cell, 4, 2, 1, hidden))
    problem.x[0], problem.x[1] = np.inf, -np.inf
    with np.errstate(all="ignore"):
        expected = oracle(problem, np.float32, compute_dtype=compute)
    got = run(problem, compute or "float32")
    assert all(np.isfinite(got[name]).all() for name in ("y", "dx", "dh0", "dweight_hh_l0"))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0.1, atol=0.02, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_past_the_end_is_zero_and_the_state_is_kept(cell):
    problem = build(Case(cell, 6, 9, 3, 5, layers=2, bidirectional=True, lengths="random"))
    problem.lengths[:2] = 0
    got = run(problem)
    past = ~problem.valid[..., 0]
    assert past.any() and not got["y"][past].any() and not got["dx"][past].any()
    states = [got[name] for name in ("h", "c") if name in got]
    for index, end in enumerate(states):
        assert np.array_equal(end[:, :2], problem.state[index][:, :2]), "a row of length 0 keeps its state"
        assert np.array_equal(got[("dh0", "dc0")[index]][:, :2], problem.dstate[index][:, :2])


@pytest.mark.parametrize("cell", CELLS)
def test_all_rows_empty(cell):
    problem = build(Case(cell, 4, 3, 2, 5, lengths="full"))
    problem.lengths = np.zeros(3, int)
    problem.x[...], problem.dy[...] = np.nan, np.nan
    assert_close(run(problem), oracle(problem), 0)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, list])
def test_lengths_of_any_integer_type(kind):
    problem = build(Case("gru", 5, 6, 3, 4, lengths="random"))
    expected = run(problem)
    problem.lengths = [int(n) for n in problem.lengths] if kind is list else problem.lengths.astype(kind)
    case = problem.case
    x, state, keywords = inputs(problem, "float64")
    y, _ = make_layer(problem, "float64")(x, state, **keywords)
    assert_same({"y": y}, {"y": expected["y"]})
    assert y.shape == (case.T, case.B, case.H)


def test_resets_may_cut_all_or_nothing():
    problem = build(Case("lstm", 5, 4, 3, 6, layers=2, bidirectional=True, reset=True))
    for value in (True, False):
        problem.reset[...] = value
        assert_close(run(problem), oracle(problem), tolerances.ORACLE64)
    plain_run = build(Case("lstm", 5, 4, 3, 6, layers=2, bidirectional=True))
    problem = dataclasses.replace(plain_run, reset=np.zeros((5, 4), bool))
    assert_same(run(problem), run(plain_run))


@pytest.mark.isa
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_nan_stays_in_its_row(cell, bidirectional):
    """Rows share tiles and vectors, but nothing else."""
    problem = build(
        Case("rnn_tanh" if cell == "rnn_relu" else cell, 7, 9, 5, 33, layers=2, bidirectional=bidirectional)
    )
    problem.case = dataclasses.replace(problem.case, cell=cell)
    expected = run(problem, "float32")
    for row in (0, 4, 8):
        wrong = dataclasses.replace(problem, x=problem.x.copy(), dy=problem.dy.copy())
        wrong.x[2, row], wrong.dy[3, row] = np.nan, np.inf
        got = run(wrong, "float32")
        others = np.arange(9) != row
        for name in ("y", "h", "dx", "dh0"):
            assert_same({name: got[name][:, others]}, {name: expected[name][:, others]})
        assert np.isnan(got["y"][2, row]).all() and np.isfinite(got["y"][:2, row]).all() != bidirectional


@pytest.mark.isa
@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_stops_nan(cell):
    """What is cut off is not multiplied by zero: it is not there."""
    problem = build(Case("rnn_tanh" if cell == "rnn_relu" else cell, 8, 5, 3, 17, layers=2, reset=True))
    problem.case = dataclasses.replace(problem.case, cell=cell)
    problem.reset[...] = False
    problem.reset[0, 3] = problem.reset[4] = True
    expected = run(problem, "float32")
    problem.state[0][:, 3] = np.nan
    problem.x[1:3, 1] = np.nan
    problem.dy[6, 2] = np.nan
    got = run(problem, "float32")
    assert_same({"y": got["y"][4:]}, {"y": expected["y"][4:]})
    assert_same({"y": got["y"][:, 3], "h": got["h"]}, {"y": expected["y"][:, 3], "h": expected["h"]})
    assert not np.isnan(got["dx"][:, 3]).any()
    assert_same(
        {"dx": got["dx"][:4, 2], "dh0": got["dh0"][:, 2]}, {"dx": expected["dx"][:4, 2], "dh0": expected["dh0"][:, 2]}
    )


# --- Shapes and types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tokens", [False, True])
def test_batch_first_is_the_same_transposed(cell, tokens):
    problem = build(Case(cell, 5, 4, 3, 7, layers=2, bidirectional=True, lengths="random", reset=True, tokens=tokens))
    expected = run(problem)
    layer = make_layer(problem, "float64", batch_first=True)
    assert layer.batch_first
    swap = lambda a: np.swapaxes(a, 0, 1)  # noqa: E731
    x, state, _ = inputs(problem, "float64")
    y, end, cache = layer.forward(swap(x), state, lengths=problem.lengths, reset=swap(problem.reset))
    dx, dstate = layer.backward(swap(problem.dy), plain(problem.dstate), cache)
    got = {"y": swap(y), "dx": None if dx is None else swap(dx)}
    assert_same({k: v for k, v in got.items() if v is not None}, {k: expected[k] for k in ("y", "dx") if k in expected})
    for name, s, d in zip("hc", *((e if cell == "lstm" else (e,)) for e in (end, dstate)), strict=False):
        assert_same({name: s, f"d{name}0": d}, {k: expected[k] for k in (name, f"d{name}0")})
    assert_same(layer.grads, {name: expected[f"d{name}"] for name in layer.grads})


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_is_a_batch_of_one(cell, tokens, batch_first):
    problem = build(Case(cell, 5, 1, 3, 7, layers=2, bidirectional=True, tokens=tokens, reset=True))
    expected = run(problem)
    layer = make_layer(problem, "float64", batch_first=batch_first)
    first = lambda state: plain(tuple(s[:, 0] for s in state))  # noqa: E731
    y, end, cache = layer.forward(problem.x[:, 0], first(problem.state), reset=problem.reset[:, 0])
    dx, dstate = layer.backward(problem.dy[:, 0], first(problem.dstate), cache)
    assert_same({"y": y}, {"y": expected["y"][:, 0]})
    assert (dx is None) == tokens
    if not tokens:
        assert_same({"dx": dx}, {"dx": expected["dx"][:, 0]})
    for name, s, d in zip("hc", *((e if cell == "lstm" else (e,)) for e in (end, dstate)), strict=False):
        assert_same({"s": s, "d": d}, {"s": expected[name][:, 0], "d": expected[f"d{name}0"][:, 0]})
    assert_same(layer.grads, {name: expected[f"d{name}"] for name in layer.grads})


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_tokens_of_any_integer_type(kind):
    problem = build(Case("lstm", 5, 4, 7, 6, tokens=True))
    expected = run(problem)
    problem.x = problem.x.astype(kind)
    assert_same(run(problem), expected)


def strided(a):
    spread = np.full((a.shape[0], 3 * a.shape[1], a.shape[2] + 2), np.nan, a.dtype)
    spread[:, ::3, 1:-1] = a
    return spread[:, ::3, 1:-1]


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        strided,
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(np.float64),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.tolist(),
        misaligned,
    ],
    ids=["fortran", "strided", "reversed", "float64", "byteswapped", "list", "misaligned"],
)
def test_inputs_of_any_layout_and_float_type(change):
    problem = build(Case("gru", 5, 4, 3, 6, layers=2))
    layer = make_layer(problem, "float32")
    x, state, _ = inputs(problem, "float32")
    dy = problem.dy.astype(np.float32)
    y, end, cache = layer.forward(x, state)
    dx, dstate = layer.backward(dy, None, cache)
    y2, end2, cache = layer.forward(change(x), np.asarray(change(state)))
    dx2, dstate2 = layer.backward(change(dy), None, cache)
    assert_same({"y": y2, "h": end2, "dx": dx2, "dh": dstate2}, {"y": y, "h": end, "dx": dx, "dh": dstate})
    stream = layer.stream(4)
    stream.state = np.asarray(change(state))
    assert_same({"y": np.stack([stream.step(change(x)[t]) for t in range(len(x))])}, {"y": y})


@pytest.mark.parametrize("lengths", [None, [5, 2, 0, 4]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradients_of_outputs_are_read_where_they_are(batch_first, lengths):
    layer = rnnfast.LSTM(3, 6, 2, batch_first=batch_first, bidirectional=True, seed=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 3) if batch_first else (5, 4, 3)).astype(np.float32)
    whole = rng.standard_normal((*x.shape[:2], 12)).astype(np.float32)
    # of one step for all, of one sequence for all, transposed, backwards, at an odd address
    pairs = [(np.broadcast_to(part, whole.shape), None) for part in (whole[0], whole[:, :1])]
    pairs += [(change(whole), whole) for change in (lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1), misaligned)]
    pairs.append((whole[::-1, ::-1], None))
    for dy, same in pairs:
        found = []
        for gradient in (dy, np.array(dy) if same is None else same):
            layer.zero_grad()
            _, _, cache = layer.forward(x, lengths=lengths)
            dx, (dh, dc) = layer.backward(gradient, None, cache)
            found.append({"dx": dx, "dh": dh, "dc": dc, **{k: g.copy() for k, g in layer.grads.items()}})
        assert_same(*found)


def test_float16_input_is_converted():
    layer = rnnfast.RNN(3, 5, seed=1)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float16)
    assert_same({"y": layer(x)[0]}, {"y": layer(x.astype(np.float32))[0]})
    assert layer(x)[0].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_new_writable_arrays_of_the_layers_dtype(dtype):
    problem = build(Case("lstm", 4, 3, 2, 5, layers=2))
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    y, end, cache = layer.forward(x, state)
    dx, dstate = layer.backward(problem.dy, plain(problem.dstate), cache)
    arrays = [y, *end, dx, *dstate]
    for a in arrays:
        assert a.dtype == dtype and a.flags.writeable and a.flags.c_contiguous
        assert not any(np.shares_memory(a, b) for b in [x, *state, *layer.params.values(), *layer.grads.values()])
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tokens", [False, True])
def test_an_empty_batch(cell, tokens):
    problem = build(Case(cell, 3, 0, 2, 5, layers=2, bidirectional=True, tokens=tokens))
    layer = make_layer(problem, "float32")
    x = np.zeros((3, 0), np.int64) if tokens else np.zeros((3, 0, 2), np.float32)
    y, end, cache = layer.forward(x)
    assert y.shape == (3, 0, 10)
    dx, dstate = layer.backward(np.zeros((3, 0, 10), np.float32), None, cache)
    assert dx is None if tokens else dx.shape == (3, 0, 2)
    for s in (*(end if cell == "lstm" else (end,)), *(dstate if cell == "lstm" else (dstate,))):
        assert s.shape == (4, 0, 5)
    assert not any(g.any() for g in layer.grads.values())


# --- What may be left out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_none_means_zeros(cell):
    problem = build(Case(cell, 5, 4, 3, 6, layers=2, bidirectional=True))
    layer = make_layer(problem, "float64")
    zeros = lambda arrays: plain(tuple(np.zeros_like(a) for a in arrays))  # noqa: E731
    given_y, given_end, cache = layer.forward(problem.x, zeros(problem.state), lengths=np.full(4, 5))
    y, end, _ = layer.forward(problem.x)
    assert difference(y, given_y) == 0
    assert all(difference(a, b) == 0 for a, b in zip(np.array(end), np.array(given_end), strict=True))
    for dy, dstate in ((problem.dy, None), (None, plain(problem.dstate)), (None, None)):
        found = []
        for full in (False, True):
            layer.zero_grad()
            a = np.zeros_like(problem.dy) if full and dy is None else dy
            b = zeros(problem.dstate) if full and dstate is None else dstate
            dx, d0 = layer.backward(a, b, cache, keep_cache=True)
            found.append({"dx": dx, "d0": np.array(d0), **{k: g.copy() for k, g in layer.grads.items()}})
        assert all(difference(found[0][k], found[1][k]) == 0 for k in found[0])
    assert not any(a.any() for a in found[0].values())


def test_one_of_two_lstm_state_gradients_may_be_none():
    problem = build(Case("lstm", 3, 2, 3, 4))
    layer = make_layer(problem, "float64")
    dh, dc = problem.dstate
    _, _, cache = layer.forward(problem.x)
    for one, both in (((dh, None), (dh, 0 * dc)), ((None, dc), (0 * dh, dc))):
        dx, _ = layer.backward(problem.dy, one, cache, keep_cache=True)
        dx_full, _ = layer.backward(problem.dy, both, cache, keep_cache=True)
        assert difference(dx, dx_full) == 0


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_accumulate(cell):
    problem = build(Case(cell, 5, 4, 3, 6, layers=2))
    layer = make_layer(problem, "float64")
    arrays = {name: id(a) for name, a in (layer.params | {f"d{k}": g for k, g in layer.grads.items()}).items()}
    once = run(problem, layer=layer)
    _, _, cache = layer.forward(problem.x, plain(problem.state))
    layer.backward(problem.dy, plain(problem.dstate), cache)
    for name, grad in layer.grads.items():
        assert np.abs(grad - 2 * once[f"d{name}"]).max() <= 1e-13 * max(1, np.abs(grad).max())
    layer.zero_grad()
    assert not any(g.any() for g in layer.grads.values())
    assert arrays == {name: id(a) for name, a in (layer.params | {f"d{k}": g for k, g in layer.grads.items()}).items()}


@PER_DTYPE
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (70, 5)])  # rows that are multiplied as they are, few and many
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_take_the_place_of_what_is_there(cell, tokens, shape, dtype):
    problem = build(Case(cell, *shape, 7, 19, layers=2, bidirectional=True, tokens=tokens))
    layer = make_layer(problem, dtype)
    expected = run(problem, dtype, layer=layer)
    arrays = {name: id(grad) for name, grad in layer.grads.items()}
    x, state, _ = inputs(problem, dtype)
    dy, dstate = problem.dy.astype(layer.dtype), plain(tuple(d.astype(layer.dtype) for d in problem.dstate))
    _, _, cache = layer.forward(x, state)
    for grad in layer.grads.values():
        grad.fill(np.nan)
    layer.backward(dy, None, cache, keep_cache=True, accumulate=False)
    without_dstate = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.zero_grad()
    layer.backward(dy, None, cache, keep_cache=True)
    assert_same(without_dstate, layer.grads)
    layer.backward(dy, dstate, cache, accumulate=False)
    assert_same({name: expected[f"d{name}"] for name in layer.grads}, layer.grads)
    assert arrays == {name: id(grad) for name, grad in layer.grads.items()}


def test_state_gradients_of_a_cut_state_are_zero():
    problem = build(Case("gru", 3, 4, 2, 5))
    problem.reset = np.zeros((3, 4), bool)
    problem.reset[0, 1] = True
    got = run(problem)
    assert not got["dh0"][0, 1].any() and got["dh0"][0, 0].all()


# --- Denormal numbers, and the caller's floating-point mode -----------------------------------------------------------


@pytest.mark.isa
def test_the_callers_denormals_survive():
    x = np.full((40, 4, 8), 1e-38, np.float32)
    layer = rnnfast.LSTM(8, 16, seed=0)
    for value in layer.params.values():
        value[...] = 1e-3
    y, _, cache = layer.forward(x)
    layer.backward(np.full(y.shape, 1e-37, np.float32), None, cache)
    tiny = np.full(64, 1e-40, np.float32)
    assert (tiny * np.float32(1.0) != 0).all(), "denormals are flushed after a call"
