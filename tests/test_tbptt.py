"""Truncated BPTT: streams are cut as said, and full, truncated and k1/k2 gradients are those of the oracle."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import as_tuple, assert_close
from rnnfast import lm, ops, tbptt
from rnnfast import reference as ref

MEMORY = Path(__file__).parents[1] / "benchmarks" / "tbptt_memory.py"
LENGTHS = (1, 2, 7, 33)  # of chunks; the streams below have 33 steps, so the last chunk is often a shorter one


def make_layer(cell, input_size=3, hidden_size=5, **kwargs):
    kwargs = {"num_layers": 2, "dtype": "float64", "seed": 7} | kwargs
    if cell.startswith("rnn_"):
        return rnnfast.RNN(input_size, hidden_size, nonlinearity=cell[4:], **kwargs)
    return {"lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[cell](input_size, hidden_size, **kwargs)


def make_stream(steps=33, batch=2, input_size=3, hidden_size=5, seed=1):
    """x, target, reset: a regression on the layer's output."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((steps, batch, input_size)),
        rng.standard_normal((steps, batch, hidden_size)),
        rng.random((steps, batch)) < 0.1,
    )


def squared(y, target):
    return float(((y - target) ** 2).sum()), 2 * (y - target)


def oracle_chunk(cell, params, x, target, reset, state, dstate=None, *, loss_from=0, masks=None):
    """(loss of the steps from loss_from on, last state, gradients) with the first state constant."""
    y, last, cache = ref.forward(cell, params, x, state, num_layers=2, reset=reset, dropout_masks=masks)
    value, dy = squared(y[loss_from:], target[loss_from:])
    dy = np.concatenate([np.zeros_like(y[:loss_from]), dy])
    _, dstate0, grads = ref.backward(dy, dstate, cache)
    return value, last, dstate0, grads


def add(total, grads):
    for name, grad in grads.items():
        total[name] = total.get(name, 0) + grad
    return total


def close(got, expected, what="value"):
    assert_close({what: np.asarray(got)}, {what: np.asarray(expected)}, tolerances.ORACLE64)


def assert_states(got, expected):
    for a, b in zip(as_tuple(got), as_tuple(expected), strict=True):
        close(a, b)


def assert_grads(got, expected):
    assert_close(got, expected, tolerances.ORACLE64)


# --- full ---


@pytest.mark.isa
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("cell", ref.CELLS)
def test_full_in_chunks_is_full_bptt(cell, length):
    layer, (x, target, reset) = make_layer(cell), make_stream()
    value, state, dstate, grads = oracle_chunk(cell, layer.params, x, target, reset, None)
    result = tbptt.full(layer, (x, target, reset), squared, seq_length=length)
    close(np.sum(result.values), value)
    assert_states(result.state, state)
    assert_states(result.dstate, dstate)
    assert_grads(layer.grads, grads)


def test_full_takes_a_first_state_and_the_gradient_of_the_last():
    layer, (x, target, _) = make_layer("lstm"), make_stream()
    rng = np.random.default_rng(2)
    state, last = (tuple(rng.standard_normal((2, 2, 5)) for _ in "hc") for _ in range(2))
    _, _, dstate, grads = oracle_chunk("lstm", layer.params, x, target, None, state, last)
    result = tbptt.full(layer, (x, target), squared, seq_length=7, state=state, dstate=last)
    assert_states(result.dstate, dstate)
    assert_grads(layer.grads, grads)


@pytest.mark.isa
def test_the_state_carried_through_chunks_is_that_of_the_whole_to_the_bit():
    for cell in ref.CELLS:
        layer, (x, target, reset) = make_layer(cell, dtype="float32"), make_stream()
        whole = layer(x.astype("float32"), reset=reset)[1]
        for length in LENGTHS:
            *_, (_, state) = tbptt.truncated(layer, (x.astype("float32"), target, reset), squared, seq_length=length)
            np.testing.assert_array_equal(np.stack(state), np.stack(whole))


# --- truncated ---


@pytest.mark.isa
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("cell", ref.CELLS)
def test_truncated_is_the_oracle_with_the_carried_state_constant(cell, length):
    layer, (x, target, reset) = make_layer(cell), make_stream()
    state, total = None, {}
    steps = tbptt.truncated(layer, (x, target, reset), squared, seq_length=length)
    for first in range(0, len(x), length):
        part = slice(first, first + length)
        value, state, _, grads = oracle_chunk(cell, layer.params, x[part], target[part], reset[part], state)
        got, carried = next(steps)
        close(got, value)
        assert_states(carried, state)
        assert_grads(layer.grads, add(total, grads))
    assert next(steps, None) is None


def test_truncated_updates_after_every_chunk():
    layer, (x, target, reset) = make_layer("gru"), make_stream()
    params, state = layer.state_dict(), None
    update = tbptt.updater(rnnfast.optim.SGD(0.01), layer, clip_value=2.0, clip_norm=3.0)
    for step, (value, _) in enumerate(
        tbptt.truncated(layer, (x, target, reset), squared, seq_length=10, update=update)
    ):
        part = slice(10 * step, 10 * step + 10)
        expected, state, _, grads = oracle_chunk("gru", params, x[part], target[part], reset[part], state)
        clipped = ref.clip_grad_norm(ref.clip_grad_value(list(grads.values()), 2.0), 3.0)[1]
        for name, grad in zip(grads, clipped, strict=True):
            params[name] = params[name] - 0.01 * grad
            close(layer.params[name], params[name], name)
            assert not layer.grads[name].any()
        close(value, expected)


# --- k1 / k2 ---


def oracle_k1k2(cell, params, stream, k1, k2, lr):
    """Yields (loss, gradients) of each update; `params` change by plain gradient steps of rate lr."""
    x, target, reset = stream
    starts = {0: None}  # step -> state there, computed with the weights of the last update that passed it
    previous = 0
    for end in [*range(k1, len(x), k1), len(x)]:
        new = end - (end - 1) // k1 * k1
        first = max(0, end - k2)
        if first not in starts:  # only before a last, shorter piece
            starts[first] = ref.forward(
                cell, params, x[previous:first], starts[previous], num_layers=2, reset=reset[previous:first]
            )[1]
        window = (a[first:end] for a in stream)
        value, _, _, grads = oracle_chunk(cell, params, *window, starts[first], loss_from=end - first - new)
        following = max(0, end + k1 - k2)
        if following > first:
            starts[following] = ref.forward(
                cell, params, x[first:following], starts[first], num_layers=2, reset=reset[first:following]
            )[1]
        previous = first
        for name, grad in grads.items():
            params[name] = params[name] - lr * grad
        yield value, grads


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 4), (3, 4), (4, 7), (5, 15), (7, 7), (10, 23), (33, 33), (40, 50)])
@pytest.mark.parametrize("cell", ref.CELLS)
def test_k1k2_is_the_oracle(cell, k1, k2):
    layer, stream = make_layer(cell), make_stream()
    updates = []

    def update():
        updates.append({name: grad.copy() for name, grad in layer.grads.items()})
        for name, param in layer.params.items():
            param -= 0.01 * layer.grads[name]
        layer.zero_grad()

    expected = list(oracle_k1k2(cell, layer.state_dict(), stream, k1, k2, 0.01))
    got = [value for value, _ in tbptt.k1k2(layer, stream, squared, k1=k1, k2=k2, update=update)]
    assert len(got) == len(expected) == len(updates) == -(-33 // k1)
    for value, grads, (expected_value, expected_grads) in zip(got, updates, expected, strict=True):
        close(value, expected_value)
        assert_grads(grads, expected_grads)


@given(k1=st.integers(1, 40), more=st.integers(0, 40), steps=st.integers(1, 33), dropout=st.sampled_from([0.0, 0.4]))
def test_k1k2_is_full_bptt_when_k2_spans_the_stream(k1, more, steps, dropout):
    k2 = max(k1, steps) + more
    layer, stream = make_layer("lstm", dropout=dropout), make_stream(steps)
    other = copy.deepcopy(layer)
    result = tbptt.full(layer, stream, squared, seq_length=5)
    *_, (_, state) = tbptt.k1k2(other, stream, squared, k1=k1, k2=k2)
    assert_states(state, result.state)
    assert_grads(other.grads, layer.grads)
    assert layer.rng.step == other.rng.step == (steps if dropout else 0)


def test_k1k2_repeats_the_dropout_masks_of_a_window():
    layer, (x, target, reset) = make_layer("gru", dropout=0.5), make_stream()
    total, state = {}, None
    for _ in tbptt.k1k2(layer, (x, target, reset), squared, k1=4, k2=10):
        pass
    states = {0: None}
    for end in [*range(4, 33, 4), 33]:
        first, new = max(0, end - 10), end - (end - 1) // 4 * 4
        masks = ref.layer_dropout_masks(0.5, layer.rng.seed, 0, 2, 1, (33, 2, 5))
        state = states.setdefault(
            first,
            ref.forward(
                "gru", layer.params, x[:first], num_layers=2, reset=reset[:first], dropout_masks=[masks[0][:first]]
            )[1]
            if first
            else None,
        )
        part = slice(first, end)
        grads = oracle_chunk(
            "gru",
            layer.params,
            x[part],
            target[part],
            reset[part],
            state,
            loss_from=end - first - new,
            masks=[masks[0][part]],
        )[3]
        add(total, grads)
    assert_grads(layer.grads, total)


def test_k1_equal_to_k2_is_truncated_to_the_bit():
    one, (x, target, reset) = make_layer("lstm", dropout=0.3), make_stream(30)
    two = copy.deepcopy(one)
    a = list(tbptt.truncated(one, (x, target, reset), squared, seq_length=6))
    b = list(tbptt.k1k2(two, (x, target, reset), squared, k1=6, k2=6))
    for (value, state), (value2, state2) in zip(a, b, strict=True):
        assert value == value2
        np.testing.assert_array_equal(state, state2)
    for name, grad in one.grads.items():
        np.testing.assert_array_equal(grad, two.grads[name])


# --- chunks ---


@pytest.mark.parametrize("sizes", [[33], [1] * 33, [5, 28], [20, 1, 12]])
def test_chunks_are_cut_and_joined(sizes):
    whole, parts = make_layer("gru"), make_layer("gru")
    x, target, reset = make_stream()
    reset[: sizes[0]] = False  # the first chunk below comes without a reset
    ends = np.cumsum(sizes)[:-1]
    chunks = list(zip(*(np.split(a, ends) for a in (x, target, reset)), strict=True))
    chunks[0] = chunks[0][:2]
    a = list(tbptt.truncated(whole, (x, target, reset), squared, seq_length=7))
    b = list(tbptt.truncated(parts, iter(chunks), squared, seq_length=7))
    assert [v for v, _ in a] == [v for v, _ in b]
    for name, grad in whole.grads.items():
        np.testing.assert_array_equal(grad, parts.grads[name])


def test_chunks_are_read_one_at_a_time():
    layer, (x, target, _) = make_layer("gru"), make_stream()
    read = []

    def chunks():
        for first in range(0, 32, 4):
            read.append(first)
            yield x[first : first + 4], target[first : first + 4]

    for run in (tbptt.truncated(layer, chunks(), squared), tbptt.k1k2(layer, chunks(), squared, k1=4, k2=9)):
        read.clear()
        assert read == []
        next(run)
        next(run)
        assert read == [0, 4]


@given(tokens=st.integers(2, 200), batch=st.integers(1, 9), length=st.integers(1, 9))
def test_batches_cut_a_stream_into_rows(tokens, batch, length):
    ids = np.arange(tokens) + 1000
    row = (tokens - 1) // batch
    if row < length:
        with pytest.raises(
            ValueError, match=f"the stream has {tokens} tokens; batch_size {batch} x seq_length {length}"
        ):
            tbptt.batches(ids, batch, length)
        return
    chunks = list(tbptt.batches(ids, batch, length))
    assert len(chunks) == len(tbptt.batches(ids, batch, length)) == row // length
    for i, chunk in enumerate(chunks):
        assert chunk.shape == (length + 1, batch)
        assert chunk.dtype == ids.dtype
        np.testing.assert_array_equal(chunk, chunk[0] + np.arange(length + 1)[:, None])
        np.testing.assert_array_equal(chunk[0], 1000 + i * length + row * np.arange(batch))


def test_batches_position_resumes_and_a_new_loop_starts_over():
    ids = np.arange(101)
    every = list(tbptt.batches(ids, 2, 5))
    run = tbptt.batches(ids, 2, 5, start=3)
    assert len(run) == 10
    assert run.position == 3
    np.testing.assert_array_equal(next(run), every[3])
    assert run.position == 4
    assert [c[0, 0] for c in run] == [c[0, 0] for c in every[4:]]
    assert run.position == 10
    with pytest.raises(StopIteration):
        next(run)
    assert len(list(run)) == 10
    run.position = 9
    np.testing.assert_array_equal(next(run), every[9])
    assert "position=10 of 10" in repr(run)


def test_a_text_that_is_too_short_says_what_to_change():
    with pytest.raises(ValueError) as error:
        tbptt.batches(np.arange(101), 10, 20)
    assert str(error.value) == (
        "the stream has 101 tokens; batch_size 10 x seq_length 20 needs at least 201: "
        "set batch_size to at most 5, or set seq_length to at most 10, or give a longer text"
    )
    tbptt.batches(np.arange(101), 5, 20)
    tbptt.batches(np.arange(101), 10, 10)
    with pytest.raises(ValueError, match="needs at least 201: give a longer text"):
        tbptt.batches(np.arange(1), 10, 20)


# --- language models ---


class Summed:
    """A language model whose loss is the sum, as tbptt sees it."""

    def __init__(self, model):
        self.forward_features, self.backward_features = model.forward_features, model.backward_features
        self.loss, self.rng = partial(model.loss, reduction="sum"), model.rng


def make_model(**kwargs):
    return lm.LanguageModel(9, 6, 2, dtype="float64", seed=3, **kwargs)


@pytest.mark.parametrize("extra", [{}, {"embedding_size": 4, "dropout": 0.3}])
def test_train_step_in_a_loop_is_truncated(extra):
    ids = np.random.default_rng(0).integers(0, 9, 200)
    one, two = make_model(**extra), make_model(**extra)
    adam = rnnfast.optim.Adam(0.01)
    state, losses = None, []
    for tokens in tbptt.batches(ids, 3, 8):
        loss, state = one.train_step(tokens, state, adam, clip_norm=1.0)
        losses.append(loss)
    update = tbptt.updater(rnnfast.optim.Adam(0.01), two, clip_norm=1.0)
    got = list(tbptt.truncated(two, tbptt.pairs(tbptt.batches(ids, 3, 8)), update=update))
    assert losses == [value for value, _ in got]
    np.testing.assert_array_equal(state, got[-1][1])
    for name, param in one.params.items():
        np.testing.assert_array_equal(param, two.params[name])


def test_a_language_models_own_loss_is_that_of_its_logits():
    ids = np.random.default_rng(0).integers(0, 9, (31, 3))
    data = (ids[:-1], ids[1:])
    entropy = partial(ops.softmax_cross_entropy, reduction="sum")
    for run in (
        partial(tbptt.full, seq_length=8),
        lambda *a: list(tbptt.k1k2(*a, k1=4, k2=10)),
        lambda *a: list(tbptt.truncated(*a, seq_length=8)),
    ):
        one, two = make_model(embedding_size=6, tie_weights=True), make_model(embedding_size=6, tie_weights=True)
        run(one, data, entropy)
        run(Summed(two), data)
        assert_grads(two.grads, one.grads)


# --- errors ---

LAYER_ERRORS = [
    (lambda layer, data: tbptt.truncated(layer, data, squared, seq_length=0), "seq_length must be an integer of at le"),
    (lambda layer, data: tbptt.truncated(layer, data, squared, seq_length=2.5), "seq_length must be an integer"),
    (lambda layer, data: tbptt.full(layer, data, squared, seq_length=-1), "at least 1, got -1"),
    (lambda layer, data: tbptt.full(layer, [], squared), "data must hold at least one chunk, got none"),
    (lambda layer, data: tbptt.full(layer, data), "loss must be given: GRU has no output layer and loss of its own"),
    (lambda layer, data: tbptt.k1k2(layer, data, squared, k1=5, k2=4), "k2 must be at least k1 .* got k1=5 and k2=4"),
    (lambda layer, data: tbptt.k1k2(layer, data, squared, k1=0, k2=4), "k1 must be an integer of at least 1, got 0"),
    (lambda layer, data: tbptt.full(layer, [data[0]], squared), "data must yield .* got an array of shape"),
    (lambda layer, data: tbptt.full(layer, [(data[0],)], squared), "data must yield .* got a tuple of 1 items"),
    (lambda layer, data: tbptt.full(layer, [(data[0], data[1][1:])], squared), r"x and target must both start with"),
    (lambda layer, data: tbptt.full(layer, [(*data, data[2][:, :1])], squared), "got a tuple of 4 items"),
    (lambda layer, data: tbptt.full(layer, [(*data[:2], data[2][:, :1])], squared), "x and reset must both start"),
    (lambda layer, data: tbptt.full(layer, [tuple(a[:0] for a in data)], squared), "chunks of at least one step"),
]


@pytest.mark.parametrize(("call", "message"), LAYER_ERRORS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(make_layer("gru"), make_stream())


def test_batch_first_layers_are_refused():
    with pytest.raises(ValueError, match="model must be time first"):
        tbptt.full(make_layer("gru", batch_first=True), make_stream(), squared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(50), 0, 5), "batch_size must be an integer of at least 1, got 0"),
        ((np.arange(50), True, 5), "batch_size must be an integer of at least 1, got True"),
        ((np.arange(50), 2, "5"), "seq_length must be an integer of at least 1, got '5'"),
        ((np.arange(50.0), 2, 5), r"stream_ids must be a 1-D array of integers, got float64 of shape \(50,\)"),
        ((np.zeros((5, 5), int), 2, 5), r"stream_ids must be a 1-D array of integers, got int64 of shape \(5, 5\)"),
        (([], 2, 5), "stream_ids must be a 1-D array of integers"),
    ],
)
def test_batches_errors(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tbptt.batches(*arguments)


@pytest.mark.parametrize("position", [-1, 11, 2.0])
def test_a_bad_position_is_refused_and_changes_nothing(position):
    run = tbptt.batches(np.arange(101), 2, 5, start=4)
    with pytest.raises((ValueError, TypeError), match="position must be"):
        run.position = position
    assert run.position == 4
    with pytest.raises((ValueError, TypeError), match="position must be"):
        tbptt.batches(np.arange(101), 2, 5, start=position)


# --- memory ---


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_chunks(tmp_path):
    """A small version of the benchmark: twenty times the steps, at most 5 % more memory; full BPTT takes more."""
    out = tmp_path / "memory.json"
    sizes = ["--steps", "500", "10000", "--full-steps", "10000", "--seq-length", "100"]
    command = [sys.executable, str(MEMORY), *sizes, "--hidden-size", "32", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    runs = {(r["kind"], r["steps"]): r["peak_bytes"] for r in json.loads(out.read_text())["runs"]}
    assert runs["truncated", 10000] <= 1.05 * runs["truncated", 500]
    assert runs["full", 10000] > 1.2 * runs["truncated", 10000]
