"""The same bits, within one instruction set and dtype: whatever the threads, the batch, the chunks and the call."""

from __future__ import annotations

import copy
import threading
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
from cases import (
    EACH_WAY,
    PER_CELL,
    PER_DTYPE,
    PER_WAY,
    Case,
    as_tuple,
    assert_same,
    cases,
    difference,
    drawn,
    inputs,
    make_layer,
    number,
    plain,
    results,
    run,
    same_bits,
)
from rnnfast import reference as ref

pytestmark = pytest.mark.isa


@PER_DTYPE
@PER_CELL
@PER_WAY
def test_run_to_run_and_for_any_number_of_threads(cell, dtype, size):
    problem = drawn(size, cell)
    results = []
    for threads in (1, 1, 2, 3, 4):
        with rnnfast.threads(threads):
            assert rnnfast.get_num_threads() == threads
            results.append(run(problem, dtype))
    for other in results[1:]:
        assert_same(other, results[0])


@PER_DTYPE
@PER_CELL
@given(data=st.data())
def test_threads_any_shape(cell, dtype, data):
    problem = drawn(data.draw(cases("rnn_tanh" if cell == "rnn_relu" else cell, 1_000_000)), cell)
    with rnnfast.threads(1):
        expected = run(problem, dtype)
    with rnnfast.threads(data.draw(st.sampled_from((2, 3, 4)))):
        assert_same(run(problem, dtype), expected)


@PER_DTYPE
@PER_CELL
@PER_WAY
def test_a_row_alone_or_in_a_batch(cell, dtype, size):
    problem = drawn(size, cell)
    layer = make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    y, end = layer(x, state, **keywords)
    for b in sorted({0, problem.case.B // 2, problem.case.B - 1}):
        row = slice(b, b + 1)
        some = {k: v if v is None else v[row] if k == "lengths" else v[:, row] for k, v in keywords.items()}
        start = plain(tuple(s[:, row] for s in as_tuple(state)))
        alone, alone_end = layer(x[:, row], start, **some)
        assert same_bits(alone, y[:, row]), f"row {b}: {difference(alone, y[:, row])}"
        for part, whole in zip(as_tuple(alone_end), as_tuple(end), strict=True):
            assert same_bits(part, whole[:, row])


@PER_CELL
@pytest.mark.parametrize("batch", [2, 5, 7, 12, 13, 31])
def test_rows_in_any_order_and_number(cell, batch):
    """Rows are dealt to tiles and threads by their number: none may see which."""
    problem = drawn(Case(cell, 6, 33, 17, 33, lengths="random", reset=True), cell)
    layer = make_layer(problem, "float32")
    x, state, keywords = inputs(problem, "float32")
    y, end = layer(x, state, **keywords)
    rows = np.random.default_rng(batch).permutation(33)[:batch]
    start = plain(tuple(s[:, rows] for s in as_tuple(state)))
    some, some_end = layer(x[:, rows], start, lengths=keywords["lengths"][rows], reset=keywords["reset"][:, rows])
    assert same_bits(some, y[:, rows])
    for part, whole in zip(as_tuple(some_end), as_tuple(end), strict=True):
        assert same_bits(part, whole[:, rows])


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("size", [s for s in EACH_WAY if not s.bidirectional], ids=str)
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_of_any_length(cell, dtype, size, chunk):
    """With the state carried; dropout goes on too, by the absolute step."""
    problem = drawn(size, cell)
    problem.lengths, problem.reset = None, problem.reset
    problem.x = np.where(np.isnan(problem.x), 0, problem.x) if not size.tokens else problem.x
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    y, end, _ = layer.forward(x, state, reset=problem.reset)
    layer.rng.step = problem.rng_step
    parts = []
    for t in range(0, len(x), chunk):
        reset = None if problem.reset is None else problem.reset[t : t + chunk]
        part, state, _ = layer.forward(x[t : t + chunk], state, reset=reset)
        parts.append(part)
    assert same_bits(np.concatenate(parts), y)
    for part, whole in zip(as_tuple(state), as_tuple(end), strict=True):
        assert same_bits(part, whole)


@PER_DTYPE
@PER_CELL
@PER_WAY
def test_training_or_inference(cell, dtype, size):
    problem = drawn(Case(**{**vars(size), "dropout": 0.0}), cell)
    layer = make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    y, end = layer(x, state, **keywords)
    layer.freeze()
    y_frozen, end_frozen = layer(x, state, **keywords)
    layer.unfreeze()
    for training in (True, False):
        y_kept, end_kept, _ = layer.forward(x, state, **keywords, training=training)
        for got, got_end in ((y_kept, end_kept), (y_frozen, end_frozen)):
            assert same_bits(got, y)
            assert all(same_bits(a, b) for a, b in zip(as_tuple(got_end), as_tuple(end), strict=True))


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("size", [*EACH_WAY, Case("", 1, 3, 300, 300, layers=2)], ids=range(len(EACH_WAY) + 1))
def test_no_state_or_zeros(cell, dtype, size):
    """Without a state the first step has no recurrent product, nor has it where backward computes forward again."""
    problem = drawn(size, cell)
    x, state, keywords = inputs(problem, dtype)
    dy, expected = problem.dy.astype(number(dtype)), None
    for threads, recompute in ((1, False), (2, True)):
        for start in (plain(tuple(np.zeros_like(s) for s in as_tuple(state))), None):
            layer = make_layer(problem, dtype, recompute=recompute)
            with rnnfast.threads(threads):
                y, end, cache = layer.forward(x, start, **keywords)
                dx, dstate = layer.backward(dy, None, cache)
            found = results(problem.case, y, end, dx, dstate, layer.grads)
            expected = expected or found
            assert_same(found, expected)


@PER_DTYPE
@PER_CELL
# A few rows have each its function; many lie in the lanes, where they fill vectors or nearly so.
@pytest.mark.parametrize(
    "batch, hidden",
    [*product([1, 7], [1, 16, 300]), *product(range(1, 10), [37]), *product([14, 19, 30, 45], [37, 300])],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_with_the_callers_weights_or_packed_ones(cell, dtype, batch, hidden, steps):
    problem = drawn(Case("", steps, batch, 45, hidden, layers=2, bidirectional=hidden != 16, tokens=hidden == 37), cell)
    layer = make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    results = []
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            results.append(layer(x, state, **keywords))
    layer.freeze()
    results.append(layer(x, state, **keywords))
    for y, state_n in results[1:]:
        assert same_bits(y, results[0][0])
        for got, expected in zip(as_tuple(state_n), as_tuple(results[0][1]), strict=True):
            assert same_bits(got, expected)


@PER_CELL
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_not_wanted_change_no_others(cell, steps):
    problem = drawn(Case("", steps, 3, 21, 37, layers=2), cell)
    whole = run(problem, "float32")
    part = run(problem, "float32", want_dx=False, want_dstate0=False)
    assert set(whole) - set(part) == {"dx", "dh0"} | ({"dc0"} if cell == "lstm" else set())
    assert_same(part, {name: whole[name] for name in part})


@PER_CELL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("inputs_, hidden", [(64, 64), (70, 75), (131, 97)])
@pytest.mark.parametrize("rows", [1, 9, 64])
def test_gradients_of_few_rows_are_summed_as_those_of_many(cell, dtype, inputs_, hidden, rows):
    """Rows whose outputs count for nothing, up to a batch that takes another way, change no bit."""
    problem = drawn(Case("", 1, 100, inputs_, hidden), cell)
    x, _, _ = inputs(problem, dtype)
    dy = np.random.default_rng(3).standard_normal((1, 100, hidden)).astype(dtype)
    dy[:, rows:] = 0
    results = []
    for count in (100, rows):
        layer = make_layer(problem, dtype)
        for gradient in layer.grads.values():
            gradient[...] = 0.25  # is added to
        dx, dstate = layer.backward(dy[:, :count], None, layer.forward(x[:, :count])[2])
        of_rows = [d[:, :rows] for d in (dx, *as_tuple(dstate))]
        results.append(of_rows + [gradient for _, gradient in sorted(layer.grads.items())])
    for got, expected in zip(results[1], results[0], strict=True):
        assert np.array_equal(got, expected)  # zero may have either sign


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("tokens", [False, True])
def test_stream_equals_the_whole_sequence(cell, dtype, batch, tokens):
    problem = drawn(Case(cell, 9, batch, 17, 33, layers=2, tokens=tokens), cell)
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    y, end = layer(x, state)
    stream = layer.stream(batch)
    stream.state = state
    out = np.empty(y.shape[1:], number(dtype))
    for t, step in enumerate(x):
        got = stream.step(step, out=out if t % 2 else None)
        assert (got is out) == bool(t % 2)
        assert same_bits(got, y[t])
    for part, whole in zip(as_tuple(stream.state), as_tuple(end), strict=True):
        assert same_bits(part, whole)
    stream.reset()
    assert same_bits(stream.step(x[0]), layer(x[:1])[0][0])
    stream.state = state
    stream.reset([0])
    start = [np.array(s) for s in as_tuple(state)]
    for s in start:
        s[:, 0] = 0
    assert same_bits(stream.step(x[0]), layer(x[:1], plain(tuple(start)))[0][0])


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize("threads", [1, 2])
def test_single_steps_of_weights_that_fill_a_cache(cell, dtype, threads):
    """Steps and calls go through them from either end in turn: the same bits, whichever it is."""
    problem = drawn(Case(cell, 4, 3, 131, 777 if cell.startswith("rnn") else 517), cell)
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    with rnnfast.threads(1):
        y, end = layer(x, state)
    with rnnfast.threads(threads):
        stream = layer.stream(3)
        stream.state = state
        assert all(same_bits(stream.step(step), y[t]) for t, step in enumerate(x))
        for frozen in (False, True):
            if frozen:
                layer.freeze()
            now = state
            for t in range(4):
                one, now = layer(x[t : t + 1], now)
                assert same_bits(one[0], y[t])
            assert all(same_bits(a, b) for a, b in zip(as_tuple(now), as_tuple(end), strict=True))


@PER_DTYPE
@PER_CELL
@pytest.mark.parametrize(
    "size", [Case("", 5, 3, 7, 17), Case("", 20, 64, 65, 64, bidirectional=True, lengths="random")]
)
def test_integers_or_dense_one_hot_rows(cell, dtype, size):
    problem = drawn(Case(**{**vars(size), "tokens": True}), cell)
    got = run(problem, dtype)
    dense = copy.copy(problem)
    dense.case = Case(**{**vars(problem.case), "tokens": False})
    dense.x = np.where(problem.valid, ref.one_hot(problem.x, size.I), np.nan)
    expected = run(dense, dtype)
    del expected["dx"]
    scattered = [name for name in expected if name.startswith("dweight_ih_l0")]  # summed in another order
    for name in scattered:
        limit = 256 * np.finfo(number(dtype)).eps * max(1, np.abs(expected[name]).max())
        assert difference(got.pop(name), expected.pop(name)) <= limit
    assert_same(got, expected)


@PER_CELL
def test_calls_at_the_same_time(cell):
    problem = drawn(Case(cell, 20, 17, 16, 64, layers=2), cell)
    layer = make_layer(problem, "float32")
    x, state, _ = inputs(problem, "float32")
    expected, _ = layer(x, state)
    wrong = []

    def work():
        for _ in range(10):
            y, _ = layer(x, state)
            if not same_bits(y, expected):
                wrong.append(difference(y, expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
