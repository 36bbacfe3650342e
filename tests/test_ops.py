"""Losses, linear layers and embeddings against the oracle, in both dtypes and odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import SIZES, assert_same, difference, misaligned, same_bits
from differences import check_gradients
from rnnfast import ops
from rnnfast import reference as ref

pytestmark = pytest.mark.isa
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
size = st.sampled_from(SIZES)


def close(name, got, expected, dtype, scale=1.0):
    """``scale`` is the same sum with absolute values where the result is a sum."""
    limit = tolerances.OPS[dtype] * np.maximum(scale, np.abs(expected))
    error = np.abs(np.asarray(got, np.float64) - expected)
    assert np.shape(got) == np.shape(expected)
    assert np.all(error <= limit), f"{name}: {np.max(error / limit) * tolerances.OPS[dtype]:.3g} of its scale"


def numbers(rng, shape, dtype, width=1.0):
    return (width * rng.standard_normal(shape)).astype(np.float32).astype(dtype)


# --- Softmax cross-entropy --------------------------------------------------------------------------------------------


@DTYPES
@REDUCTIONS
@given(data=st.data())
def test_softmax_cross_entropy(dtype, reduction, data):
    rows, classes, seed = data.draw(size), data.draw(st.sampled_from((*SIZES, 1000))), data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    logits = numbers(rng, (rows, 2, classes), dtype, data.draw(st.sampled_from((0.1, 3.0, 50.0))))
    targets = rng.integers(0, classes, (rows, 2))
    weights = numbers(rng, classes, dtype) ** 2 if data.draw(st.booleans()) else None
    ignore_index = data.draw(st.sampled_from((None, 0, -1, 10**6)))
    if ignore_index is not None:
        targets[rng.random((rows, 2)) < 0.3] = ignore_index
    options = {"weights": weights, "ignore_index": ignore_index, "reduction": reduction}
    if weights is None:
        options["label_smoothing"] = data.draw(st.sampled_from((0.0, 0.1)))
    loss, dlogits = ops.softmax_cross_entropy(logits, targets, **options)
    expected, expected_dlogits = ref.softmax_cross_entropy(logits, targets, **options)
    assert dlogits.dtype == dtype
    if np.isnan(expected).any():
        assert np.isnan(loss) and not dlogits.any()
        return
    most = float(np.abs(logits).max())  # the logits' own rounding: the loss is a difference of them
    total = 1.0 if weights is None else float(weights.max())
    close("loss", loss, expected, dtype, (rows * 2 if reduction == "sum" else 1) * total * (1 + most))
    unit = total / (1 if reduction != "mean" else expected_weight(weights, targets, ignore_index))
    close("dlogits", dlogits, expected_dlogits, dtype, (np.abs(expected_dlogits) + unit) * (1 + most))


def expected_weight(weights, targets, ignore_index):
    """What "mean" divides by."""
    kept = targets[targets != ignore_index] if ignore_index is not None else targets.ravel()
    return len(kept) if weights is None else weights[kept].sum()


@DTYPES
def test_softmax_cross_entropy_of_extreme_logits(dtype):
    big = 1e4
    logits = np.array([[big, -big, 0.0], [-big, -big, -big], [big, big, big], [np.inf, 0, 0]], dtype)[:3]
    loss, dlogits = ops.softmax_cross_entropy(logits, np.array([0, 1, 2]), reduction="none")
    assert np.abs(loss - [0, np.log(3), np.log(3)]).max() < 1e-6
    assert np.abs(dlogits[0]).max() == 0 and np.isfinite(dlogits).all()
    loss, _ = ops.softmax_cross_entropy(logits, np.array([1, 1, 2]), reduction="none")
    assert loss[0] == 2 * big
    loss, dlogits = ops.softmax_cross_entropy(np.array([[0, -np.inf, 0]], dtype), np.array([2]))
    assert abs(loss - np.log(2)) < 1e-6 and dlogits[0, 1] == 0
    logits[1, 2] = np.nan
    assert np.isnan(ops.softmax_cross_entropy(logits, np.array([0, 1, 2]))[0])


def test_softmax_cross_entropy_shapes_and_types():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 3, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (4, 3))
    loss, dlogits = ops.softmax_cross_entropy(logits, targets)
    assert isinstance(loss, float) and dlogits.shape == (4, 3, 5)
    for kind in (np.uint8, np.int16, np.uint64):
        other, d = ops.softmax_cross_entropy(np.asfortranarray(logits), targets.astype(kind))
        assert other == loss and same_bits(d, dlogits)
    one, d = ops.softmax_cross_entropy(logits[0, 0], targets[0, 0], reduction="none")
    assert d.shape == (5,) and np.shape(one) == ()
    empty, d = ops.softmax_cross_entropy(np.zeros((0, 5), np.float32), np.zeros(0, int))
    assert np.isnan(empty) and d.shape == (0, 5)
    assert ops.softmax_cross_entropy(np.zeros((0, 5), np.float32), np.zeros(0, int), reduction="sum")[0] == 0
    kept = logits.copy()
    d[...] = 0
    assert same_bits(logits, kept)


# --- The output layer and the loss in one -----------------------------------------------------------------------------


@DTYPES
@REDUCTIONS
@given(data=st.data())
def test_linear_cross_entropy(dtype, reduction, data):
    rows, width, classes = (data.draw(size) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x, weight = numbers(rng, (rows, 3, width), dtype), numbers(rng, (classes, width), dtype) / 8
    bias = numbers(rng, classes, dtype) if data.draw(st.booleans()) else None
    targets = rng.integers(0, classes, (rows, 3))
    weights = numbers(rng, classes, dtype) ** 2 if data.draw(st.booleans()) else None
    ignore_index = data.draw(st.sampled_from((None, 0)))
    options = {"weights": weights, "ignore_index": ignore_index, "reduction": reduction}
    if weights is None:
        options["label_smoothing"] = data.draw(st.sampled_from((0.0, 0.1)))
    dweight = np.full((classes, width), 0.5, dtype)
    dbias = None if bias is None else np.full(classes, 0.5, dtype)
    loss, dx = ops.linear_cross_entropy(x, weight, bias, targets, dweight=dweight, dbias=dbias, **options)

    x64, w64 = x.astype(np.float64), weight.astype(np.float64)
    logits = x64 @ w64.T + (0 if bias is None else bias)
    expected, d = ref.softmax_cross_entropy(logits, targets, **options)
    if np.isnan(expected).any():
        assert np.isnan(loss) and not dx.any() and (dweight == 0.5).all()
        return
    scale = 1 + float((np.abs(x64) @ np.abs(w64).T).max()) + (0 if bias is None else float(np.abs(bias).max()))
    total = 1.0 if weights is None else float(weights.max())
    close("loss", loss, expected, dtype, (rows * 3 if reduction == "sum" else 1) * total * scale)
    d_scale = scale * np.abs(d).max()  # every logit enters every element of a row of d
    close("dx", dx, d @ w64, dtype, d_scale * np.abs(w64).sum(0))
    flat_d, flat_x = d.reshape(-1, classes), x64.reshape(-1, width)
    close("dweight", dweight, 0.5 + flat_d.T @ flat_x, dtype, 1 + d_scale * np.abs(flat_x).sum(0))
    if dbias is not None:
        close("dbias", dbias, 0.5 + flat_d.sum(0), dtype, 1 + d_scale * len(flat_d))

    evaluated, nothing = ops.linear_cross_entropy(x, weight, bias, targets, **options)
    assert nothing is None and same_bits(np.asarray(evaluated), np.asarray(loss))


@DTYPES
@pytest.mark.parametrize("rows", [40, 300])
def test_linear_cross_entropy_of_many_classes(dtype, rows):
    """The sum over them is cut into parts; the bits do not depend on the threads."""
    rng = np.random.default_rng(3)
    x, weight, targets = (
        numbers(rng, (rows, 70), dtype),
        numbers(rng, (9001, 70), dtype) / 8,
        rng.integers(0, 9001, rows),
    )
    results = []
    for threads in (1, 2):
        dweight = np.zeros_like(weight)
        with rnnfast.threads(threads):
            loss, dx = ops.linear_cross_entropy(x, weight, None, targets, dweight=dweight)
        results.append((np.asarray(loss), dx, dweight))
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
    x64, w64 = x.astype(np.float64), weight.astype(np.float64)
    expected, d = ref.softmax_cross_entropy(x64 @ w64.T, targets)
    scale = 1 + float((np.abs(x64) @ np.abs(w64).T).max())
    close("loss", loss, expected, dtype, scale)
    close("dx", dx, d @ w64, dtype, scale * np.abs(d).max() * np.abs(w64).sum(0))
    close("dweight", dweight, d.T @ x64, dtype, scale * np.abs(d).max() * np.abs(x64).sum(0))


@DTYPES
def test_linear_cross_entropy_is_its_two_parts(dtype):
    rng = np.random.default_rng(1)
    x, targets = numbers(rng, (33, 17, 65), dtype), rng.integers(0, 129, (33, 17))
    layer = rnnfast.Linear(65, 129, dtype=dtype, seed=0)
    logits, cache = layer.forward(x)
    loss, dlogits = ops.softmax_cross_entropy(logits, targets)
    dx = layer.backward(dlogits, cache)
    grads = {name: np.zeros_like(grad) for name, grad in layer.grads.items()}
    fused, fused_dx = ops.linear_cross_entropy(
        x, *layer.params.values(), targets, dweight=grads["weight"], dbias=grads["bias"]
    )
    eps = float(np.finfo(dtype).eps)
    assert abs(fused - loss) <= 8 * eps * loss
    assert difference(fused_dx, dx) <= 64 * eps * np.abs(dx).max()
    for name, grad in grads.items():
        assert difference(grad, layer.grads[name]) <= 64 * eps * np.abs(grad).max()


def test_gradients_of_the_losses_against_finite_differences():
    rng = np.random.default_rng(2)
    x, weight, bias = rng.standard_normal((4, 3, 5)), rng.standard_normal((7, 5)), rng.standard_normal(7)
    targets, weights = rng.integers(0, 7, (4, 3)), rng.uniform(0.2, 2, 7)
    options = {"weights": weights, "ignore_index": 3}
    dweight, dbias = np.zeros((7, 5)), np.zeros(7)
    _, dx = ops.linear_cross_entropy(x, weight, bias, targets, dweight=dweight, dbias=dbias, **options)
    check_gradients(
        lambda: ops.linear_cross_entropy(x, weight, bias, targets, **options)[0],
        {"x": x, "weight": weight, "bias": bias},
        {"x": dx, "weight": dweight, "bias": dbias},
        1e-3,
    )
    logits = rng.standard_normal((4, 3, 7))
    _, dlogits = ops.softmax_cross_entropy(logits, targets, **options)
    loss = lambda: ops.softmax_cross_entropy(logits, targets, **options)[0]  # noqa: E731
    check_gradients(loss, {"logits": logits}, {"logits": dlogits}, 1e-3)


@DTYPES
def test_losses_have_the_same_bits_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(3)
    x, weight, bias = (numbers(rng, s, dtype) for s in ((129, 17, 64), (65, 64), (65,)))
    targets = rng.integers(0, 65, (129, 17))
    results = []
    for threads in (1, 2, 3, 4):
        with rnnfast.threads(threads):
            dweight, dbias = np.zeros_like(weight), np.zeros_like(bias)
            loss, dx = ops.linear_cross_entropy(x, weight, bias, targets, dweight=dweight, dbias=dbias)
            alone, dlogits = ops.softmax_cross_entropy(x, targets % 64)
        results.append({"loss": loss, "dx": dx, "dw": dweight, "db": dbias, "alone": alone, "dlogits": dlogits})
    for other in results[1:]:
        assert_same(other, results[0])


# --- Linear and Embedding ---------------------------------------------------------------------------------------------


@DTYPES
@given(data=st.data())
def test_linear(dtype, data):
    rows, width, out = (data.draw(size) for _ in range(3))
    bias = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    layer = rnnfast.Linear(width, out, bias=bias, dtype=dtype, seed=1)
    x, dy = numbers(rng, (rows, width), dtype), numbers(rng, (rows, out), dtype)
    layer.grads["weight"][...] = 0.25
    y, cache = layer.forward(x)
    dx = layer.backward(dy, cache)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    weight = layer.params["weight"].astype(np.float64)
    b = layer.params["bias"].astype(np.float64) if bias else 0
    close("y", y, x64 @ weight.T + b, dtype, np.abs(x64) @ np.abs(weight).T + np.abs(b))
    close("dx", dx, dy64 @ weight, dtype, np.abs(dy64) @ np.abs(weight))
    close("dweight", layer.grads["weight"], 0.25 + dy64.T @ x64, dtype, 0.25 + np.abs(dy64).T @ np.abs(x64))
    if bias:
        close("dbias", layer.grads["bias"], dy64.sum(0), dtype, np.abs(dy64).sum(0))
    assert same_bits(layer(x), y)
    for b in {0, rows - 1}:
        assert same_bits(layer(x[b : b + 1]), y[b : b + 1]), "a row alone or in a batch"


@DTYPES
@given(data=st.data())
def test_linear_where(dtype, data):
    """The rows that count have the bits they have alone; the others are not read, get zeros and add nothing."""
    rows, width, out = (data.draw(size) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    where = rng.random((rows, 3)) < data.draw(st.sampled_from((0.0, 0.1, 0.6, 1.0)))
    x, dy = numbers(rng, (rows, 3, width), dtype), numbers(rng, (rows, 3, out), dtype)
    alone, layer = (rnnfast.Linear(width, out, dtype=dtype, seed=1) for _ in range(2))
    y, cache = alone.forward(x[where])
    dx = alone.backward(dy[where], cache)
    x[~where], dy[~where] = np.nan, np.nan
    for threads in (1, 3):
        layer.zero_grad()
        with rnnfast.threads(threads):
            got, cache = layer.forward(x, where=where)
            got_dx = layer.backward(dy, cache)
            assert same_bits(layer(x, where=where), got)
        assert same_bits(got[where], y) and same_bits(got_dx[where], dx)
        assert not got[~where].any() and not got_dx[~where].any()
        assert_same(layer.grads, alone.grads)


@DTYPES
@given(data=st.data())
def test_embedding(dtype, data):
    rows, count, width = (data.draw(size) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    layer = rnnfast.Embedding(count, width, dtype=dtype, seed=1)
    tokens, dy = rng.integers(0, count, (rows, 9)), numbers(rng, (rows, 9, width), dtype)
    y, cache = layer.forward(tokens)
    assert same_bits(y, layer.params["weight"][tokens]) and same_bits(layer(tokens), y)
    assert layer.backward(dy, cache) is None
    expected, scale = np.zeros((count, width)), np.zeros((count, width))
    np.add.at(expected, tokens, dy)
    np.add.at(scale, tokens, np.abs(dy))
    close("dweight", layer.grads["weight"], expected, dtype, scale)
    with rnnfast.threads(3):
        again = rnnfast.Embedding(count, width, dtype=dtype, seed=1)
        again.backward(dy, again.forward(tokens)[1])
    assert same_bits(again.grads["weight"], layer.grads["weight"])


@DTYPES
def test_linear_has_the_same_bits_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(4)
    x, dy = numbers(rng, (300, 65), dtype), numbers(rng, (300, 129), dtype)
    results = []
    for threads in (1, 2, 3, 4):
        with rnnfast.threads(threads):
            layer = rnnfast.Linear(65, 129, dtype=dtype, seed=1)
            y, cache = layer.forward(x)
            results.append({"y": y, "dx": layer.backward(dy, cache), **layer.grads})
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_a_linear_cache_holds_what_it_needs(kind):
    """Changes to x and the weights after forward do not reach backward."""
    rng = np.random.default_rng(5)
    layer = rnnfast.Linear(7, 5, seed=1) if kind == "linear" else rnnfast.Embedding(7, 5, seed=1)
    x = numbers(rng, (4, 7), "float32") if kind == "linear" else rng.integers(0, 7, (4, 3))
    dy = numbers(rng, (*(x.shape[:-1] if kind == "linear" else x.shape), 5), "float32")
    dx = layer.backward(dy, layer.forward(x)[1])
    expected = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.zero_grad()
    _, cache = layer.forward(x)
    x[...] = 0
    for value in layer.params.values():
        value[...] = 0
    again = layer.backward(dy, cache)
    assert_same(layer.grads, expected)
    assert (again is None and dx is None) or same_bits(again, dx)


@DTYPES
def test_arguments_at_odd_addresses(dtype):
    rng = np.random.default_rng(6)
    x, dy, keys, v = (numbers(rng, shape, dtype) for shape in ((4, 3, 7), (4, 3, 5), (6, 3, 7), 7))
    weight, bias, targets = numbers(rng, (5, 7), dtype), numbers(rng, 5, dtype), rng.integers(0, 5, (4, 3), np.int32)
    linear = rnnfast.Linear(7, 5, dtype=dtype, seed=1)
    embedding = rnnfast.Embedding(5, 5, dtype=dtype, seed=1)

    def results(change):
        linear.zero_grad()
        embedding.zero_grad()
        y, cache = linear.forward(change(x))
        dx = linear.backward(change(dy), cache)
        embedding.backward(change(dy), embedding.forward(change(targets))[1])
        loss, dlogits = ops.softmax_cross_entropy(change(dy), change(targets))
        fused, dhidden = ops.linear_cross_entropy(*map(change, (x, weight, bias, targets)))
        context, weights = ops.attention(change(x), change(keys), change(keys), v=change(v))
        names = ("dquery", "dkeys", "dvalues", "dv")
        dattention = ops.attention_backward(
            change(x), change(weights), change(x), change(keys), change(keys), v=change(v)
        )
        found = {"y": y, "dx": dx, "dlogits": dlogits, "dhidden": dhidden, "context": context}
        found |= dict(zip(names, dattention, strict=True))
        found |= {
            f"{kind} {name}": grad.copy()
            for kind, of in (("linear", linear), ("embedding", embedding))
            for name, grad in of.grads.items()
        }
        return found | {"loss": np.array(loss), "fused": np.array(fused)}

    assert_same(results(misaligned), results(np.array))
