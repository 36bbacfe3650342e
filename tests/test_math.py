"""exp, tanh and sigmoid as the kernels compute them: units in the last place, and what happens at the edges."""

from __future__ import annotations

import numpy as np
import pytest

import tolerances
from rnnfast import _core

FUNCTIONS = ("exp", "tanh", "sigmoid")
EACH = pytest.mark.parametrize("name", FUNCTIONS)
BITS = {"float32": np.uint32, "float64": np.uint64}
# Something more precise than float64 to judge float64 with: x86's extended numbers, or quadruple ones.
WIDE = np.longdouble if np.finfo(np.longdouble).nmant > 60 else None


def exact(name, x):
    """The function in the precision of x."""
    if name == "exp":
        return np.exp(x)
    if name == "tanh":
        return np.tanh(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def worst_error(name, x, wide):
    """The largest error in ulp where argument and result are normal; elsewhere the result must be right or 0."""
    dtype = x.dtype
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        got, true = _core.math_test(name, x), exact(name, x.astype(wide))
        assert got.dtype == dtype and got.shape == x.shape
        size = np.abs(true)
        unit = np.spacing(np.minimum(np.maximum(size, info.tiny), info.max).astype(dtype)).astype(wide)
        # The spacing of true rounded to dtype is one too wide where that rounds up to a power of two.
        unit = np.where(np.ldexp(wide(1), np.frexp(unit)[1] - 1) * 2.0**info.nmant > size, unit / 2, unit)
        unit = np.maximum(unit, info.smallest_subnormal)
        error = np.abs(got.astype(wide) - true) / unit
    nan = np.isnan(x)
    assert np.isnan(got[nan]).all(), "NaN in, NaN out"
    largest, slack = wide(info.max), 4 * wide(info.eps)
    over = ~nan & (size > largest)  # the true result is beyond the largest number
    allowed = over & (size <= largest * (1 + slack))  # within rounding of it
    assert (np.isinf(got[over & ~allowed]) & (got[over & ~allowed] > 0)).all(), "overflow is infinite"
    edge = ~nan & ~over & np.isinf(got)
    assert (size[edge] >= largest * (1 - slack)).all(), "infinite only at the edge"
    normal = ~nan & ~over & ~edge & (size >= info.tiny) & ((np.abs(x) >= info.tiny) | (x == 0))
    small = ~nan & ~over & ~edge & ~normal
    flushed = small & (got == 0) & (size < info.tiny)
    wrong = small & ~flushed & (error > tolerances.MATH_ULP[dtype.name] + 1)
    assert not wrong.any(), f"{name}({x[wrong][0]!r}) = {got[wrong][0]!r}"
    if not normal.any():
        return 0.0
    where = int(np.argmax(np.where(normal, error, 0)))
    assert error[where] <= tolerances.MATH_ULP[dtype.name], (
        f"{name}({x[where]!r}) = {got[where]!r}: {error[where]:.3f} ulp"
    )
    return float(error[where])


def interesting(dtype):
    """Around 0, the smallest normal number, multiples of ln 2, saturation, overflow and underflow; of both signs."""
    points = [0.0, 1.0, np.log(2), 0.625, 8.67, 9.02, 16.6, 17.33, 18.4, 19.06, 37.4, 44.0]
    points += [87.3, 88.4, 88.72, 89.0, 103.2, 104.0, 708.3, 709.4, 709.78, 710.0, 745.1, 746.0, 1e4, 1e30]
    points += list(np.log(2) * np.arange(1, 130) / 2)
    info, bits = np.finfo(dtype), BITS[dtype]
    centres = np.array([*points, float(info.tiny), float(info.max), float(info.eps)]).astype(dtype)
    near = (centres.view(bits)[:, None] + np.arange(-300, 301).astype(np.int64).astype(bits)).view(dtype).ravel()
    special = np.array([0.0, np.inf, np.nan, info.smallest_subnormal, info.tiny / 2], dtype)
    both = np.concatenate([near, special])
    return np.concatenate([both, -both])


@pytest.mark.isa
@EACH
def test_float32_dense_sample(name):
    """Every 1021st float of the 2**32, and the interesting ones."""
    x = np.arange(0, 2**32, 1021, dtype=np.uint64).astype(np.uint32).view(np.float32)
    assert worst_error(name, x, np.float64) > 0.2, "the judge measures something"
    worst_error(name, interesting("float32"), np.float64)


@pytest.mark.isa
@EACH
def test_float64_dense_sample(name):
    if WIDE is None:
        pytest.skip("no floating-point type here is more precise than float64")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-750, 750, 200_000), rng.uniform(-20, 20, 200_000), rng.standard_normal(200_000)])
    x = np.concatenate([x, np.exp(rng.uniform(-740, 709, 100_000)) * rng.choice([-1, 1], 100_000)])
    assert worst_error(name, x, WIDE) > 0.2
    worst_error(name, interesting("float64"), WIDE)


@pytest.mark.isa
@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(name, dtype):
    x = np.array([np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, np.nan, -np.nan], dtype)
    expected = {"exp": [np.inf, 0, 1, 1, np.inf, 0], "tanh": [1, -1, 0, 0, 1, -1], "sigmoid": [1, 0, 0.5, 0.5, 1, 0]}[
        name
    ]
    got = _core.math_test(name, x)
    assert list(got[:6]) == expected and np.isnan(got[6:]).all()
    if name == "tanh":
        assert list(np.signbit(got[2:4])) == [False, True], "tanh keeps the sign of zero"


@pytest.mark.isa
@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_and_symmetry(name, dtype):
    x = interesting(dtype)
    x = x[~np.isnan(x)]
    got = _core.math_test(name, x)
    assert (got >= (-1 if name == "tanh" else 0)).all()
    assert name == "exp" or (got <= 1).all()
    if name == "tanh":
        assert np.array_equal(_core.math_test(name, -x), -got)


@pytest.mark.isa
@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_elements_result_does_not_depend_on_its_place(name, dtype):
    """Any length and any alignment: vector bodies and tails are the same function."""
    x = np.random.default_rng(1).uniform(-30, 30, 70).astype(dtype)
    whole = _core.math_test(name, x)
    for first in range(5):
        for last in (first + 1, first + 2, first + 7, first + 16, first + 33):
            assert np.array_equal(_core.math_test(name, x[first:last].copy()), whole[first:last])
    assert _core.math_test(name, x[:0]).shape == (0,)


@pytest.mark.isa
@pytest.mark.slow
@EACH
def test_float32_all_of_them(name):
    for first in range(0, 2**32, 2**22):
        x = np.arange(first, first + 2**22, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            right = exact(name, x.astype(np.float64)).astype(np.float32)
        off = _core.math_test(name, x).view(np.int32).astype(np.int64) - right.view(np.int32)
        suspects = x[(np.abs(off) > 1) | np.isnan(x)]  # the others are the right number or its neighbour
        worst_error(name, suspects, np.float64)


@pytest.mark.isa
@pytest.mark.slow
@EACH
def test_float64_many(name):
    if WIDE is None:
        pytest.skip("no floating-point type here is more precise than float64")
    for seed in range(50):
        bits = np.random.default_rng(seed).integers(0, 2**64, 2**20, dtype=np.uint64)
        worst_error(name, bits.view(np.float64), WIDE)
        worst_error(name, np.random.default_rng(seed).uniform(-720, 720, 2**20), WIDE)
        worst_error(name, np.random.default_rng(seed).uniform(-2, 2, 2**20), WIDE)
