"""The same bits, within one instruction set and dtype: whatever the threads, the batch, the chunks and the call."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import (
    CELLS,
    Case,
    assert_same,
    build,
    cases,
    difference,
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
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
PER_CELL = pytest.mark.parametrize("cell", CELLS)

# One row, few rows, many rows; little and much work: each way to share it out, and sums over more than 256 terms.
SIZES = [
    Case("", 1, 1, 1, 1),
    Case("", 40, 1, 33, 129, layers=2),
    Case("", 16, 3, 129, 129, bidirectional=True),
    Case("", 33, 17, 16, 33, layers=2, bidirectional=True, lengths="random", reset=True),
    Case("", 9, 129, 7, 64, lengths="random", reset=True),
    Case("", 20, 64, 17, 64, layers=2, tokens=True),
    Case("", 12, 16, 33, 64, layers=3, dropout=0.5, lengths="random"),
]


def drawn(case: Case, cell: str):
    """The problem, without the search for pre-activations off the kink of relu: bits do not depend on it."""
    problem = build(Case(**{**vars(case), "cell": "rnn_tanh" if cell == "rnn_relu" else cell}))
    problem.case = Case(**{**vars(case), "cell": cell})
    return problem


def states(state) -> tuple:
    return state if isinstance(state, tuple) else (state,)


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
def test_run_to_run_and_for_any_number_of_threads(cell, dtype, size):
    problem = drawn(size, cell)
    results = []
    for threads in (1, 1, 2, 3, 4):
        with rnnfast.threads(threads):
            assert rnnfast.get_num_threads() == threads
            results.append(run(problem, dtype))
    for other in results[1:]:
        assert_same(other, results[0])


@DTYPES
@PER_CELL
@given(data=st.data())
def test_threads_any_shape(cell, dtype, data):
    problem = drawn(data.draw(cases("rnn_tanh" if cell == "rnn_relu" else cell, 1_000_000)), cell)
    with rnnfast.threads(1):
        expected = run(problem, dtype)
    with rnnfast.threads(data.draw(st.sampled_from((2, 3, 4)))):
        assert_same(run(problem, dtype), expected)


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
def test_a_row_alone_or_in_a_batch(cell, dtype, size):
    problem = drawn(size, cell)
    layer = make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    y, end = layer(x, state, **keywords)
    for b in sorted({0, problem.case.B // 2, problem.case.B - 1}):
        row = slice(b, b + 1)
        some = {k: v if v is None else v[row] if k == "lengths" else v[:, row] for k, v in keywords.items()}
        start = plain(tuple(s[:, row] for s in states(state)))
        alone, alone_end = layer(x[:, row], start, **some)
        assert same_bits(alone, y[:, row]), f"row {b}: {difference(alone, y[:, row])}"
        for part, whole in zip(states(alone_end), states(end), strict=True):
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
    start = plain(tuple(s[:, rows] for s in states(state)))
    some, some_end = layer(x[:, rows], start, lengths=keywords["lengths"][rows], reset=keywords["reset"][:, rows])
    assert same_bits(some, y[:, rows])
    for part, whole in zip(states(some_end), states(end), strict=True):
        assert same_bits(part, whole[:, rows])


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", [s for s in SIZES if not s.bidirectional], ids=str)
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
    for part, whole in zip(states(state), states(end), strict=True):
        assert same_bits(part, whole)


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
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
            assert all(same_bits(a, b) for a, b in zip(states(got_end), states(end), strict=True))


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", [*SIZES, Case("", 1, 3, 300, 300, layers=2)], ids=range(len(SIZES) + 1))
def test_no_state_or_zeros(cell, dtype, size):
    """Without a state the first step has no recurrent product, nor has it where backward computes forward again."""
    problem = drawn(size, cell)
    x, state, keywords = inputs(problem, dtype)
    dy, expected = problem.dy.astype(number(dtype)), None
    for threads in (1, 2):
        for recompute in (False, True):
            for start in (plain(tuple(np.zeros_like(s) for s in states(state))), None):
                layer = make_layer(problem, dtype, recompute=recompute)
                with rnnfast.threads(threads):
                    y, end, cache = layer.forward(x, start, **keywords)
                    dx, dstate = layer.backward(dy, None, cache)
                found = results(problem.case, y, end, dx, dstate, layer.grads)
                expected = expected or found
                assert_same(found, expected)


@DTYPES
@PER_CELL
@pytest.mark.parametrize("batch", [1, 2, 7, 19])
@pytest.mark.parametrize("hidden", [1, 16, 37, 300])
def test_one_step_with_the_callers_weights_or_packed_ones(cell, dtype, batch, hidden):
    problem = drawn(Case("", 1, batch, 45, hidden, layers=2, bidirectional=hidden != 16, tokens=hidden == 37), cell)
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
        for got, expected in zip(states(state_n), states(results[0][1]), strict=True):
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
        of_rows = [d[:, :rows] for d in (dx, *states(dstate))]
        results.append(of_rows + [gradient for _, gradient in sorted(layer.grads.items())])
    for got, expected in zip(results[1], results[0], strict=True):
        assert np.array_equal(got, expected)  # zero may have either sign


@DTYPES
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
    for part, whole in zip(states(stream.state), states(end), strict=True):
        assert same_bits(part, whole)
    stream.reset()
    assert same_bits(stream.step(x[0]), layer(x[:1])[0][0])
    stream.state = state
    stream.reset([0])
    start = [np.array(s) for s in states(state)]
    for s in start:
        s[:, 0] = 0
    assert same_bits(stream.step(x[0]), layer(x[:1], plain(tuple(start)))[0][0])


@DTYPES
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
            assert all(same_bits(a, b) for a, b in zip(states(now), states(end), strict=True))


@DTYPES
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


# --- Caches -------------------------------------------------------------------------------------------------


def backward(layer, problem, cache, dtype, **options):
    layer.zero_grad()
    dstate = plain(tuple(d.astype(number(dtype)) for d in problem.dstate))
    dx, dstate0 = layer.backward(problem.dy.astype(number(dtype)), dstate, cache, **options)
    out = {name: grad.copy() for name, grad in layer.grads.items()}
    out |= {f"d{k}": d for k, d in enumerate(states(dstate0))}
    return out if dx is None else out | {"dx": dx}


@DTYPES
@PER_CELL
@pytest.mark.parametrize("size", SIZES, ids=range(len(SIZES)))
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
    *SIZES,
    Case("", 100, 32, 17, 33, layers=2, dropout=0.5),
    Case("", 100, 16, 7, 65, bidirectional=True, reset=True, layers=2),
    Case("", 90, 50, 7, 33, reset=True),
    Case("", 600, 4, 7, 64, lengths="random"),
    Case("", 50, 32, 7, 129, reset=True),
    Case("", 7, 1, 17, 33, layers=2, bidirectional=True),
    # On other instruction sets, some of which take a quarter of a minute for each, only at length.
    pytest.param(Case("", 100, 16, 7, 129, bidirectional=True, reset=True, layers=2), marks=pytest.mark.large),
    pytest.param(Case("", 100, 32, 7, 129, layers=2, reset=True), marks=pytest.mark.large),
]


@DTYPES
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


@DTYPES
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


@DTYPES
@PER_CELL
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("batch, inputs_, hidden", [(1, 130, 129), (3, 5, 7), (40, 33, 65)])
def test_parameters_read_where_they_are(cell, dtype, steps, batch, inputs_, hidden):
    """Without copies of them: the same bits, and with a single step less memory."""
    problem = drawn(Case(cell, steps, batch, inputs_, hidden, layers=2, bidirectional=True), cell)
    layer = make_layer(problem, dtype)
    x, state, _ = inputs(problem, dtype)
    for threads in (1, 2):
        with rnnfast.threads(threads):
            caches = [layer.forward(x, state, copy=copied)[2] for copied in (True, False)]
            sizes = [cache.nbytes for cache in caches]
            assert sizes[1] < sizes[0] if steps == 1 else sizes[1] == sizes[0]
            copied, read = (backward(layer, problem, cache, dtype) for cache in caches)
        assert_same(read, copied)


@PER_CELL
def test_what_was_handed_out_or_in_may_be_overwritten(cell):
    problem = drawn(Case(cell, 6, 5, 7, 33, layers=2, lengths="random", reset=True), cell)
    layer = make_layer(problem, "float32")
    x, state, keywords = inputs(problem, "float32")
    expected = backward(layer, problem, layer.forward(x, state, **keywords)[2], "float32")
    y, end, cache = layer.forward(x, state, **keywords)
    for a in (y, x, *states(end), *states(state)):
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


# --- Calls from several Python threads ----------------------------------------------------------------------


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
    got |= {f"d{name}0": s for name, s in zip("hc", states(d), strict=False)}
    for name, value in got.items():
        assert difference(value, whole[name]) <= tolerances.ORACLE64 * max(1, np.abs(whole[name]).max()), name
