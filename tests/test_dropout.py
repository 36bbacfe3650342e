"""Dropout is a function of (seed, step, layer, direction, row, unit): the masks are the oracle's, however drawn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import (
    PER_CELL,
    SIZES,
    Case,
    assert_close,
    assert_same,
    build,
    difference,
    make_layer,
    oracle,
    run,
    same_bits,
)
from rnnfast import reference as ref
from rnnfast.random import CounterRng

pytestmark = pytest.mark.isa


def module_mask(p, seed, step, index, shape):
    return ref.dropout_mask(p, seed, step, 0x8000 + index, shape)


# --- The module -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_the_modules_mask_is_the_oracles(dtype, data):
    T, B, n = (data.draw(st.sampled_from(SIZES[:7])) for _ in range(3))
    p = data.draw(st.sampled_from((1e-6, 0.1, 0.5, 0.9, 1.0)))
    seed, step = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.sampled_from((0, 5, 2**32 - 2, 2**40)))
    index = data.draw(st.sampled_from((0, 1, 77)))
    layer, rng = rnnfast.Dropout(p, seed=3, index=index), CounterRng(seed, step)
    x = np.random.default_rng(0).standard_normal((T, B, n)).astype(dtype)
    y, cache = layer.forward(x, rng=rng)
    mask = module_mask(p, seed, step, index, (T, B, n))
    assert np.abs(y - x * mask).max() <= 2 * np.finfo(dtype).eps * np.abs(x * mask).max()
    assert y.dtype == dtype and np.array_equal(y != 0, (mask != 0) & (x != 0))
    assert rng.step == step + T
    assert same_bits(layer.backward(x, cache), y)
    with rnnfast.threads(3):
        assert same_bits(layer.forward(x, rng=CounterRng(seed, step))[0], y)


def test_the_module_outside_of_training():
    layer = rnnfast.Dropout(0.5, seed=1)
    x = np.ones((4, 3, 5), np.float32)
    y, cache = layer.forward(x, training=False)
    assert same_bits(y, x) and same_bits(layer(x), x) and layer.rng.step == 0
    assert same_bits(layer.backward(x, cache), x)
    assert layer.params == {} and layer.num_parameters == 0


def test_the_modules_own_generator():
    layer = rnnfast.Dropout(0.5, seed=9)
    x = np.ones((4, 3, 5), np.float32)
    first, second = layer.forward(x)[0], layer.forward(x)[0]
    assert layer.rng.step == 8 and not same_bits(first, second)
    both = rnnfast.Dropout(0.5, seed=9).forward(np.ones((8, 3, 5), np.float32))[0]
    assert same_bits(np.concatenate([first, second]), both)
    copy = pickle.loads(pickle.dumps(layer))
    assert same_bits(copy.forward(x)[0], layer.forward(x)[0])


# --- Between layers ---------------------------------------------------------------------------------------------------


@PER_CELL
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("p", [0.2, 0.75])
@pytest.mark.parametrize("lengths", [None, "random"])
def test_between_layers_the_masks_are_the_oracles(cell, bidirectional, p, lengths):
    case = Case(cell, 5, 7, 3, 17, layers=3, bidirectional=bidirectional, dropout=p, lengths=lengths, seed=2**31)
    case = case if cell != "rnn_relu" else Case(**{**vars(case), "T": 2, "H": 7})
    problem = build(case)
    assert problem.masks is not None and len(problem.masks) == 2
    assert_close(run(problem), oracle(problem), tolerances.ORACLE64)


@PER_CELL
def test_only_training_drops(cell):
    problem = build(Case(cell, 4, 3, 5, 6, layers=2, dropout=0.5))
    layer = make_layer(problem, "float32")
    x = problem.x.astype(np.float32)
    y, _ = layer(x)
    assert same_bits(layer.forward(x, training=False)[0], y)
    assert layer.rng.step == problem.rng_step
    dropped = layer.forward(x)[0]
    assert not same_bits(dropped, y) and layer.rng.step == problem.rng_step + 4
    layer.rng.step = problem.rng_step
    assert same_bits(layer.forward(x)[0], dropped)


@PER_CELL
def test_one_layer_drops_nothing(cell):
    problem = build(Case(cell, 4, 3, 5, 6, dropout=0.5))
    layer = make_layer(problem, "float32")
    x = problem.x.astype(np.float32)
    assert same_bits(layer.forward(x)[0], layer(x)[0])


@PER_CELL
def test_a_given_generator_is_used_and_moved_on(cell):
    problem = build(Case(cell, 4, 3, 5, 6, layers=2, dropout=0.5))
    layer = make_layer(problem, "float32")
    own = dict(layer.rng.state_dict())
    rng = CounterRng(123, 45)
    y = layer.forward(problem.x, rng=rng)[0]
    assert rng.step == 49 and layer.rng.state_dict() == own
    layer.rng.load_state_dict({"seed": 123, "step": 45})
    assert same_bits(layer.forward(problem.x)[0], y)


@PER_CELL
def test_the_same_rows_in_another_batch_size(cell):
    """A row's masks depend on its place, not on how many rows there are."""
    problem = build(Case(cell, 4, 9, 5, 6, layers=2, dropout=0.5))
    layer = make_layer(problem, "float32")
    x = problem.x.astype(np.float32)
    y = layer.forward(x, rng=CounterRng(1))[0]
    assert same_bits(layer.forward(x[:, :4], rng=CounterRng(1))[0], y[:, :4])


@PER_CELL
def test_dropout_in_chunks(cell):
    problem = build(Case(cell, 11, 5, 7, 17, layers=3, dropout=0.4))
    layer = make_layer(problem, "float32")
    x = problem.x.astype(np.float32)
    y, _, _ = layer.forward(x, rng=CounterRng(8, 2**32 - 5))
    for chunk in (1, 3, 8):
        rng, state, parts = CounterRng(8, 2**32 - 5), None, []
        for t in range(0, 11, chunk):
            part, state, _ = layer.forward(x[t : t + chunk], state, rng=rng)
            parts.append(part)
        assert same_bits(np.concatenate(parts), y)


def test_backward_draws_the_mask_of_its_own_forward():
    problem = build(Case("lstm", 5, 4, 3, 8, layers=2, dropout=0.5))
    layer = make_layer(problem, "float64")
    layer.zero_grad()
    _, _, cache = layer.forward(problem.x, rng=CounterRng(1, 7))
    _, _, other = layer.forward(problem.x, rng=CounterRng(2, 7))
    layer.rng.seed, layer.rng.step = 99, 99
    problem.masks = ref.layer_dropout_masks(0.5, 1, 7, 2, 1, (5, 4, 8))
    problem.state = None
    problem.dstate = tuple(0 * d for d in problem.dstate)
    dx, _ = layer.backward(problem.dy, None, cache)
    expected = oracle(problem)
    assert difference(dx, expected["dx"]) < 1e-13
    assert_close(layer.grads, {k: expected[f"d{k}"] for k in layer.grads}, tolerances.ORACLE64)
    assert difference(layer.backward(problem.dy, None, other)[0], dx) > 1e-3


def test_counter_rng():
    rng = CounterRng(5, 6)
    assert (rng.seed, rng.step) == (5, 6) and isinstance(rng.step, int)
    other = CounterRng(0)
    assert other.step == 0
    other.load_state_dict(rng.state_dict())
    assert_same({"s": np.array([other.seed, other.step])}, {"s": np.array([5, 6])})
    assert CounterRng().seed != CounterRng().seed
