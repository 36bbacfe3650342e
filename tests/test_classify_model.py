"""The model under rnnfast.classify: its gradients are right, and no row depends on what is beside it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tolerances
from cases import assert_same, same_bits
from classify_data import C, ragged
from differences import check_gradients
from rnnfast import reference as ref
from rnnfast.batches import pad
from rnnfast.classify import SequenceModel
from rnnfast.classify.estimators import softmax
from rnnfast.classify.task import cross_entropy, outputs, squared_error

POOLINGS = ("last", "mean", "max", None)
K = 4
SHAPES = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "two layers": {"num_layers": 2, "dropout": 0.4},
    "dropout": {"dropout": 0.4, "bidirectional": True},
    "tokens": {"tokens": True},
    "embedding": {"tokens": True, "embedding_size": 3, "dropout": 0.3},
}


def make(pooling, *, tokens=False, **kwargs):
    return SequenceModel(5 if tokens else C, K, 7, pooling=pooling, **({"dtype": "float64", "seed": 3} | kwargs))


def batch(pooling, tokens=False, count=5):
    x, lengths = pad([s.astype(np.int32 if tokens else np.float64) for s in ragged(count, tokens=tokens)])
    rng = np.random.default_rng(1)
    classes = rng.integers(0, K, x.shape[:2] if pooling is None else count)
    numbers = rng.standard_normal((*classes.shape, K))
    return x, lengths, classes, numbers


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["classes", "weighted", "numbers"])
def test_gradients_by_finite_differences(pooling, shape, kind):
    model = make(pooling, cell="gru" if shape == "bidirectional" else "lstm", **SHAPES[shape])
    x, lengths, classes, numbers = batch(pooling, SHAPES[shape].get("tokens", False))
    targets = numbers if kind == "numbers" else classes
    weights = np.array([0.5, 1.0, 2.0, 0.0]) if kind == "weighted" else None
    loss = squared_error(None) if kind == "numbers" else cross_entropy(weights)

    def run():
        return model.forward(x, lengths=lengths, rng=copy.deepcopy(model.rng))

    y, cache = run()
    _, dy = loss(y, targets, lengths)
    model.backward(dy, cache)
    grads = {name: grad.copy() for name, grad in model.grads.items()}
    check_gradients(lambda: loss(run()[0], targets, lengths)[0], model.params, grads, 1e-4, most=6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_outputs_are_the_oracles(pooling, bidirectional):
    model = make(pooling, bidirectional=bidirectional)
    x, lengths, *_ = batch(pooling)
    params = {name[4:]: value for name, value in model.params.items() if name.startswith("rnn.")}
    y, (h, _), _ = ref.forward("lstm", params, x, bidirectional=bidirectional, lengths=lengths)
    inside = np.arange(len(x))[:, None] < lengths
    features = {
        "last": np.concatenate(list(h), axis=-1),
        "mean": np.where(inside[..., None], y, 0).sum(axis=0) / lengths[:, None],
        "max": np.where(inside[..., None], y, -np.inf).max(axis=0),
        None: y,
    }[pooling]
    expected = features @ model.params["output.weight"].T + model.params["output.bias"]
    got = model(x, lengths=lengths)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerances.ORACLE64 * 10
    assert same_bits(model.forward(x, lengths=lengths, training=False)[0], got)


def test_the_loss_is_the_sum_over_the_steps():
    x, lengths, classes, numbers = batch(None)
    y = make(None)(x, lengths=lengths)
    weights = np.array([0.5, 1.0, 2.0, 0.0])
    for w in (None, weights):
        each = -np.log(np.take_along_axis(softmax(y), classes[..., None], -1)[..., 0])
        each = each if w is None else each * w[classes]
        rows = [each[:n, i].sum() for i, n in enumerate(lengths)]
        assert cross_entropy(w)(y, classes, lengths)[0] == pytest.approx(sum(rows), rel=1e-13)
    squares = np.square(y - numbers).mean(axis=-1)
    rows = [squares[:n, i].sum() for i, n in enumerate(lengths)]
    assert squared_error(None)(y, numbers, lengths)[0] == pytest.approx(sum(rows), rel=1e-13)


@pytest.mark.isa
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [1, 7, 33])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_neither_padding_nor_the_batch_changes_a_bit(pooling, dtype, hidden, bidirectional):
    model = SequenceModel(C, K, hidden, 2, pooling=pooling, bidirectional=bidirectional, dtype=dtype, seed=2)
    x = [s.astype(dtype) for s in ragged(33)]
    alone = [model(s[:, None], lengths=[len(s)]) for s in x]
    alone = [a[:, 0] if pooling is None else a[0] for a in alone]
    for size in (1, 2, 7, 33):
        for got, expected in zip(outputs(model, x, pad, size), alone, strict=True):
            assert same_bits(got, expected)
            assert same_bits(softmax(got), softmax(expected))
    padded, lengths = pad(x)
    longer = np.concatenate([padded, np.full((9, *padded.shape[1:]), np.nan, dtype)])
    longer[np.arange(len(longer))[:, None] >= lengths] = np.nan
    y = model(longer, lengths=lengths)
    for i, expected in enumerate(alone):
        assert same_bits(y[: lengths[i], i] if pooling is None else y[i], expected)
    together = softmax(y) if pooling is not None else None
    assert together is None or all(same_bits(together[i], softmax(alone[i])) for i in range(33))


@pytest.mark.parametrize("shape", SHAPES)
def test_copies(shape):
    model = make("mean", **SHAPES[shape])
    x, lengths, *_ = batch("mean", SHAPES[shape].get("tokens", False))
    model.forward(x, lengths=lengths)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same(other.params, model.params)
        assert same_bits(
            other.forward(x, lengths=lengths)[0],
            model.forward(x, lengths=lengths, rng=copy.deepcopy(model.rng))[0],
        )
    assert_same(SequenceModel(**model.config).params, make("mean", **SHAPES[shape]).params)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frozen_model_holds_its_parameters(shape):
    model = make("mean", **SHAPES[shape])
    x, lengths, *_ = batch("mean", SHAPES[shape].get("tokens", False))
    expected = model(x, lengths=lengths)
    model.freeze()
    copied = pickle.loads(pickle.dumps(model))
    for param in model.params.values():
        param += 0.1
    for frozen in (model, copied):
        assert same_bits(frozen(x, lengths=lengths), expected)
        with pytest.raises(RuntimeError, match="call unfreeze"):
            frozen.forward(x, lengths=lengths)
    model.unfreeze()
    assert not same_bits(model(x, lengths=lengths), expected)
    model.forward(x, lengths=lengths)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"pooling": "sum"}, "pooling must be None or one of last, mean, max, got 'sum'"),
        ({"cell": "gruu"}, "cell must be one of lstm, gru, rnn, got 'gruu'"),
        ({"dropout": 1.0}, "dropout must be a number in .0, 1., got 1.0"),
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
    ],
)
def test_wrong_arguments(arguments, word):
    with pytest.raises(ValueError, match=word):
        SequenceModel(**({"input_size": C, "output_size": K, "hidden_size": 7} | arguments))
