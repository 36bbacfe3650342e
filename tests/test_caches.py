"""What a forward pass keeps for its backward: the same bits whatever happens in between, and for less memory."""

from __future__ import annotations

import numpy as np
import pytest

import rnnfast
import tolerances
from cases import (
    EACH_WAY,
    PER_CELL,
    PER_DTYPE,
    PER_WAY,
    Case,
    as_tuple,
    assert_same,
    difference,
    drawn,
    inputs,
    make_layer,
    number,
    plain,
    run,
    same_bits,
)

pytestmark = pytest.mark.isa


def backward(layer, problem, cache, dtype, **options):
    layer.zero_grad()
    dstate = plain(tuple(d.astype(number(dtype)) for d in problem.dstate))
    dx, dstate0 = layer.backward(problem.dy.astype(number(dtype)), dstate, cache, **options)
    out = {name: grad.copy() for name, grad in layer.grads.items()}
    out |= {f"d{k}": d for k, d in enumerate(as_tuple(dstate0))}
    return out if dx is None else out | {"dx": dx}


@PER_DTYPE
@PER_CELL
@PER_WAY
def test_a_kept_cache_gives_the_same_bits_again(cell, dtype, size):
    problem = drawn(size, cell)
    layer = make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    _, _, cache = layer.forward(x, state, **keywords)
    assert cache.nbytes > 0
    first = backward(layer, problem, cache, dtype, keep_cache=True)
    assert_same(backward(layer, problem, cache, dtype, keep_cache=True), first)
    assert_same(backward(layer, problem, cache, dtype), first)
    with pytest.raises((ValueError, RuntimeError), match="cache"):
        layer.backward(problem.dy.astype(number(dtype)), None, cache)


# Many rows a step and few, blocks of 256 rows that end with a step (16, 32, 64) and that do not (50), long and short.
RECOMPUTED = [
    *EACH_WAY,
    Case("", 100, 32, 17, 33, layers=2, dropout=0.5),
    Case("", 90, 50, 7, 33, reset=True),
    Case("", 600, 4, 7, 64, lengths="random"),
    Case("", 7, 1, 17, 33, layers=2, bidirectional=True),
    # On other instruction sets, some of which take a quarter of a minute for each, only at length.
    pytest.param(Case("", 100, 16, 7, 65, bidirectional=True, reset=True, layers=2), marks=pytest.mark.large),
    pytest.param(Case("", 50, 32, 7, 129, reset=True), marks=pytest.mark.large),
    pytest.param(Case("", 100, 16, 7, 129, bidirectional=True, reset=True, layers=2), marks=pytest.mark.large),
    pytest.param(Case("", 100, 32, 7, 129, layers=2, reset=True), marks=pytest.mark.large),
]


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("size", RECOMPUTED, ids=range(len(RECOMPUTED)))
def test_gates_that_are_computed_again(cell, dtype, size):
    """For less memory, on any number of threads, and when the cache is kept."""
    problem = drawn(size, cell)
    expected = run(problem, dtype)
    layer = make_layer(problem, dtype, recompute=True)
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            layer.rng.step = problem.rng_step
            assert_same(run(problem, dtype, layer), expected)
    x, state, keywords = inputs(problem, dtype)
    stored, again = make_layer(problem, dtype), layer
    caches = []
    for each in (stored, again):
        each.rng.step = problem.rng_step
        caches.append(each.forward(x, state, **keywords)[2])
    if cell in ("lstm", "gru") and size.T >= 90 and not size.lengths:
        assert caches[1].nbytes < 0.8 * caches[0].nbytes
    kept = backward(again, problem, caches[1], dtype, keep_cache=True)
    assert_same(kept, backward(stored, problem, caches[0], dtype))
    assert_same(backward(again, problem, caches[1], dtype), kept)


@PER_CELL
def test_caches_alive_together(cell):
    problems = [
        drawn(Case(cell, 5 + k, 4 + 3 * k, 7, 33, layers=2, bidirectional=True, seed=k), cell) for k in range(4)
    ]
    layer = make_layer(problems[0], "float32")
    expected, caches = [], []
    for problem in problems:
        expected.append(backward(layer, problem, layer.forward(*inputs(problem, "float32")[:2])[2], "float32"))
    for problem in problems:
        caches.append(layer.forward(*inputs(problem, "float32")[:2])[2])
    for k in (2, 0, 3, 1):
        layer(*inputs(problems[k - 1], "float32")[:2])  # a call in between takes and gives back buffers
        assert_same(backward(layer, problems[k], caches[k], "float32"), expected[k])


@PER_DTYPE
@PER_CELL
def test_weights_changed_between_forward_and_backward(cell, dtype):
    """Backward takes the weights of its forward, or refuses."""
    problem = drawn(Case(cell, 6, 5, 7, 33, layers=2, bidirectional=True), cell)
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    expected = backward(layer, problem, layer.forward(x, state)[2], dtype)
    _, _, cache = layer.forward(x, state)
    for value in layer.params.values():
        value[...] = 3
    try:
        got = backward(layer, problem, cache, dtype)
    except RuntimeError as error:
        assert "weights" in str(error) or "parameters" in str(error)
    else:
        assert_same(got, expected)
    y, _ = layer(x, state)
    assert not same_bits(y, make_layer(problem, dtype)(x, state)[0]), "a call takes the parameters as they are now"


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("batch, inputs_, hidden", [(1, 130, 129), (3, 5, 7), (40, 33, 65)])
def test_arrays_read_where_they_are(cell, dtype, steps, batch, inputs_, hidden):
    """Without copies of x, y and the parameters: the same bits for less memory, and nothing is written to."""
    problem = drawn(Case(cell, steps, batch, inputs_, hidden, layers=2, bidirectional=True), cell)
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    for threads in (1, 2):
        with rnnfast.threads(threads):
            y, _, read = layer.forward(x, state, copy=False)
            kept = layer.forward(x, state)[2]
            assert read.nbytes < kept.nbytes
            before = x.copy(), y.copy()
            assert_same(backward(layer, problem, read, dtype), backward(layer, problem, kept, dtype))
            assert same_bits(x, before[0]) and same_bits(y, before[1])


@PER_CELL
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"recompute": True}], ids=str)
@pytest.mark.parametrize("lengths", [None, "random"])
def test_arrays_of_any_layout_read_where_they_are(cell, options, lengths):
    case = Case(cell, 70, 9, 33, 34, layers=2, bidirectional=True, lengths=lengths, reset=True, tokens=False)
    problem = drawn(case, cell)
    layer = make_layer(problem, "float32", **options)
    x, state, keywords = inputs(problem, "float32")
    if layer.batch_first:
        x, problem.dy = x.swapaxes(0, 1).copy(), problem.dy.swapaxes(0, 1)
        keywords["reset"] = keywords["reset"].T
    expected = backward(layer, problem, layer.forward(x, state, **keywords)[2], "float32")
    _, _, cache = layer.forward(x, state, **keywords, copy=False)
    del _  # y lives on in the cache
    assert_same(backward(layer, problem, cache, "float32", keep_cache=True), expected)
    assert_same(backward(layer, problem, cache, "float32"), expected)


@PER_CELL
def test_what_was_handed_out_or_in_may_be_overwritten(cell):
    problem = drawn(Case(cell, 6, 5, 7, 33, layers=2, lengths="random", reset=True), cell)
    layer = make_layer(problem, "float32")
    x, state, keywords = inputs(problem, "float32")
    expected = backward(layer, problem, layer.forward(x, state, **keywords)[2], "float32")
    y, end, cache = layer.forward(x, state, **keywords)
    for a in (y, x, *as_tuple(end), *as_tuple(state)):
        a[...] = np.nan
    keywords["lengths"][...], keywords["reset"][...] = 0, True
    assert_same(backward(layer, problem, cache, "float32"), expected)


def test_results_survive_their_cache_and_later_calls():
    problem = drawn(Case("lstm", 6, 5, 7, 33, layers=2), "lstm")
    layer = make_layer(problem, "float32")
    x, state, _ = inputs(problem, "float32")
    y, end, cache = layer.forward(x, state)
    kept = [a.copy() for a in (y, *end)]
    backward(layer, problem, cache, "float32")
    del cache
    for _ in range(5):
        layer.forward(x[::-1], state)
        layer(-x)
    assert all(same_bits(a, b) for a, b in zip((y, *end), kept, strict=True))


def test_frozen_weights_are_those_of_freeze():
    problem = drawn(Case("gru", 4, 3, 5, 7), "gru")
    layer = make_layer(problem, "float32")
    x, state, _ = inputs(problem, "float32")
    y, _ = layer(x, state)
    stream = layer.stream(3)
    layer.freeze()
    for value in layer.params.values():
        value *= 2
    assert same_bits(layer(x, state)[0], y)
    stream.state = state
    assert same_bits(stream.step(x[0]), y[0])
    layer.unfreeze()
    assert not same_bits(layer(x, state)[0], y)


@PER_CELL
def test_chunked_backward_that_passes_dstate_back_is_the_whole(cell):
    """Not to the bit (sums over time restart), but to 1e-12."""
    problem = drawn(Case(cell, 20, 5, 7, 33, layers=2), cell)
    layer = make_layer(problem, "float64")
    x, state, _ = inputs(problem, "float64")
    whole = run(problem, layer=layer)
    layer.zero_grad()
    caches = []
    for t in range(0, 20, 7):
        _, state, cache = layer.forward(x[t : t + 7], state)
        caches.append((t, cache))
    d, parts = plain(problem.dstate), []
    for t, cache in reversed(caches):
        dx, d = layer.backward(problem.dy[t : t + 7], d, cache)
        parts.insert(0, dx)
    got = {"dx": np.concatenate(parts)} | {f"d{name}": grad for name, grad in layer.grads.items()}
    got |= {f"d{name}0": s for name, s in zip("hc", as_tuple(d), strict=False)}
    for name, value in got.items():
        assert difference(value, whole[name]) <= tolerances.ORACLE64 * max(1, np.abs(whole[name]).max()), name
