"""Attention against the oracle, the oracle against finite differences; and what may not change a bit of a result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import same_bits
from differences import check_gradients
from rnnfast import ops
from rnnfast import reference as ref

pytestmark = pytest.mark.isa
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = (1, 2, 7, 16, 17, 33)


class Problem:
    """query (T, B, K), keys (S, B, K), values (S, B, E), lengths and perhaps v; all numbers are float32 numbers."""

    def __init__(self, seed, T, B, S, K, E, *, ragged=True, additive=False, dtype="float64"):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.standard_normal(shape).astype(np.float32).astype(dtype)

        self.query, self.keys, self.values = draw(T, B, K), draw(S, B, K), draw(S, B, E)
        self.lengths = rng.integers(0, S + 1, B) if ragged else None
        self.v = draw(K) if additive else None
        self.dcontext = draw(T, B, E)
        if ragged:
            past = np.arange(S)[:, None] >= self.lengths
            self.keys[past], self.values[past] = np.nan, np.nan

    @property
    def inputs(self):
        return self.query, self.keys, self.values, self.lengths, self.v

    def run(self):
        context, weights = ops.attention(*self.inputs)
        return context, weights, *ops.attention_backward(self.dcontext, weights, *self.inputs)

    def oracle(self):
        arrays = [np.nan_to_num(a).astype(np.float64) for a in (self.query, self.keys, self.values)]
        v = None if self.v is None else self.v.astype(np.float64)
        out = ref.attention(*arrays, self.lengths, v)
        return *out, *ref.attention_backward(self.dcontext.astype(np.float64), *arrays, self.lengths, v)


@st.composite
def problems(draw, dtype):
    T, B, S, K, E = (draw(st.sampled_from(SIZES)) for _ in range(5))
    return Problem(
        draw(st.integers(0, 2**31)),
        T,
        B,
        S,
        K,
        E,
        ragged=draw(st.booleans()),
        additive=draw(st.booleans()),
        dtype=dtype,
    )


@DTYPES
@given(data=st.data())
def test_against_the_oracle(dtype, data):
    problem = data.draw(problems(dtype))
    names = ("context", "weights", "dquery", "dkeys", "dvalues", "dv")
    score = (
        problem.query.shape[2] * 3
    )  # a score's rounding is that of a sum of K products, and exp makes it the weight's
    for name, got, expected in zip(names, problem.run(), problem.oracle(), strict=True):
        if expected is None:
            assert got is None
            continue
        assert got.dtype == dtype and got.shape == expected.shape
        scale = max(1.0, float(np.abs(expected).max(initial=0))) * score
        error = float(np.abs(got - expected).max(initial=0))
        assert error <= tolerances.OPS[dtype] * scale, f"{name}: {error:.3g} of {scale:.3g}"


@pytest.mark.parametrize("additive", [False, True])
def test_the_oracles_gradients(additive):
    problem = Problem(3, 3, 4, 5, 6, 7, additive=additive)
    arrays = {"query": problem.query, "keys": problem.keys, "values": problem.values}
    arrays |= {"v": problem.v} if additive else {}

    def loss():
        inputs = (np.nan_to_num(a) for a in (problem.query, problem.keys, problem.values))
        return float((problem.dcontext * ref.attention(*inputs, problem.lengths, problem.v)[0]).sum())

    grads = dict(zip(("query", "keys", "values", "v"), problem.oracle()[2:], strict=True))
    check_gradients(loss, arrays, {name: grads[name] for name in arrays}, step=1e-3)


@pytest.mark.parametrize("additive", [False, True])
@DTYPES
def test_neither_batch_nor_padding_nor_threads_change_a_bit(dtype, additive):
    problem = Problem(1, 9, 7, 21, 33, 17, additive=additive, dtype=dtype)
    context, weights, dquery, dkeys, dvalues, dv = problem.run()
    for b, n in enumerate(problem.lengths.tolist()):
        alone = Problem(1, 9, 7, 21, 33, 17, additive=additive, dtype=dtype)
        alone.query, alone.dcontext = problem.query[:, b : b + 1], problem.dcontext[:, b : b + 1]
        alone.keys, alone.values = problem.keys[:n, b : b + 1], problem.values[:n, b : b + 1]
        alone.lengths = None
        got = alone.run()
        assert same_bits(got[0], context[:, b : b + 1]) and same_bits(got[1], weights[:, b : b + 1, :n])
        assert same_bits(got[2], dquery[:, b : b + 1])
        assert same_bits(got[3], dkeys[:n, b : b + 1]) and same_bits(got[4], dvalues[:n, b : b + 1])
        one_query = ops.attention(problem.query[4:5], *problem.inputs[1:])
        assert same_bits(one_query[0], context[4:5]) and same_bits(one_query[1], weights[4:5])
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            for got, expected in zip(problem.run(), (context, weights, dquery, dkeys, dvalues, dv), strict=True):
                assert got is expected or same_bits(got, expected)


@pytest.mark.parametrize("additive", [False, True])
@DTYPES
def test_without_queries_all_gradients_are_zero(dtype, additive):
    problem = Problem(0, 0, 2, 3, 5, 4, additive=additive, dtype=dtype)
    del_me = [np.full(size, np.nan, dtype) for size in (30, 24, 5) for _ in range(4)]
    del del_me  # what arrays of these sizes get is full of NaN
    _, _, dquery, *rest = problem.run()
    assert dquery.shape == (0, 2, 5) and [d.shape for d in rest[:2]] == [(3, 2, 5), (3, 2, 4)]
    assert all(d is None or not d.any() for d in rest)


@DTYPES
def test_weights_sum_to_one_and_extreme_scores_are_numbers(dtype):
    query = np.array([[[1e4]], [[-1e4]], [[0.0]]], dtype)
    keys = np.array([[[1.0]], [[-1.0]], [[0.5]]], dtype)
    context, weights = ops.attention(query, keys, keys)
    assert np.isfinite(context).all() and np.abs(weights.sum(axis=-1) - 1).max() < 1e-6
    assert weights[0, 0].argmax() == 0 and weights[1, 0].argmax() == 1 and np.abs(weights[2, 0] - 1 / 3).max() < 1e-6
    nothing, none = ops.attention(query, keys, keys, np.array([0]))
    assert not nothing.any() and not none.any()


X = np.zeros((4, 3, 5), np.float32)
CASES = {
    "query of integers": (lambda: ops.attention(np.zeros((4, 3, 5), int), X, X), TypeError, ["query", "int64"]),
    "query of two axes": (lambda: ops.attention(X[0], X, X), ValueError, ["query", "(T, B, K)", "(3, 5)"]),
    "other batch": (lambda: ops.attention(X, X[:, :2], X), ValueError, ["keys", "(S, 3, 5)", "(4, 2, 5)"]),
    "other width": (lambda: ops.attention(X, X[..., :4], X), ValueError, ["keys", "(S, 3, 5)", "(4, 3, 4)"]),
    "other steps": (lambda: ops.attention(X, X, X[:2]), ValueError, ["values", "(4, 3, E)", "(2, 3, 5)"]),
    "lengths too long": (lambda: ops.attention(X, X, X, [1, 2, 5]), ValueError, ["lengths", "0 .. 4", "5"]),
    "v too short": (lambda: ops.attention(X, X, X, None, X[0, 0, :4]), ValueError, ["v must", "(5,)", "(4,)"]),
    "dcontext": (lambda: ops.attention_backward(X[:1], X, X, X, X), ValueError, ["dcontext", "(4, 3, 5)", "(1, 3, 5)"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    call, error, words = CASES[case]
    with pytest.raises(error) as raised:
        call()
    assert all(word in str(raised.value) for word in words), str(raised.value)
