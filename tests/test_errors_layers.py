"""Bad input: one clear error that names the argument, what was expected and what came; and nothing has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rnnfast
from cases import assert_same, misaligned
from rnnfast import ops, optim
from rnnfast.random import CounterRng

NAN = math.nan
X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
TOKENS = np.array([[0, 1, 4], [2, 2, 0], [3, 0, 1], [4, 4, 4]])
STATE = np.ones((2, 3, 7), np.float32)
DY = np.ones((4, 3, 7), np.float32)


def gru(**options):
    return rnnfast.GRU(5, 7, 2, seed=1, **options)


def lstm(**options):
    return rnnfast.LSTM(5, 7, 2, seed=1, **options)


def linear(**options):
    return rnnfast.Linear(5, 7, seed=1, **options)


def embedding():
    return rnnfast.Embedding(5, 7, seed=1)


def cache_of(layer, x=X):
    return layer.forward(x)[-1]


def used(layer):
    cache = cache_of(layer)
    layer.backward(None, None, cache)
    return cache


def with_gradient(layer, value=1.0):
    for grad in layer.grads.values():
        grad[...] = value
    return layer


# what makes the module, what is done with it, which error, and what its message must say: argument, expected, got
LAYER_CASES = {
    # x
    "x too wide": (gru, lambda m: m(X[..., :4]), ValueError, ["x must", "(T, B, 5)", "(4, 3, 4)"]),
    "x of four axes": (gru, lambda m: m(X[None]), ValueError, ["x must", "(T, B, 5)", "(1, 4, 3, 5)"]),
    "x of one axis": (gru, lambda m: m(X[0, 0]), ValueError, ["x must", "(T, B, 5)", "(5,)"]),
    "x without axes": (gru, lambda m: m(np.float32(1)), ValueError, ["x must", "(T, B, 5)", "()"]),
    "x batch first": (
        lambda: gru(batch_first=True),
        lambda m: m(X[..., :4]),
        ValueError,
        ["x must", "(B, T, 5)", "(4, 3, 4)"],
    ),
    "x without time steps": (gru, lambda m: m(X[:0]), ValueError, ["x must", "time step", "(0, 3, 5)"]),
    "x bool": (gru, lambda m: m(X > 0), TypeError, ["x must", "floating point or integers", "bool"]),
    "x object": (gru, lambda m: m(X.astype(object)), TypeError, ["x must", "floating point or integers", "object"]),
    "x complex": (gru, lambda m: m(X.astype(np.complex64)), TypeError, ["x must", "floating point", "complex64"]),
    "x text": (gru, lambda m: m("to be"), TypeError, ["x must", "floating point or integers", "<U5"]),
    "x None": (gru, lambda m: m(None), TypeError, ["x must", "floating point or integers", "object"]),
    "x ragged": (gru, lambda m: m([[1.0], [1.0, 2.0]]), TypeError, ["x must", "array", "list"]),
    "integers of three axes": (gru, lambda m: m(X.astype(int)), ValueError, ["x", "(T, B)", "(4, 3, 5)", "int64"]),
    "a token too large": (gru, lambda m: m(TOKENS + 1), ValueError, ["x must", "0 .. 4", "got 5"]),
    "a token below zero": (gru, lambda m: m(TOKENS - 1), ValueError, ["x must", "0 .. 4", "got -1"]),
    "a huge token": (gru, lambda m: m(np.uint64(2**63) + TOKENS.astype(np.uint64)), ValueError, ["x must", "0 .. 4"]),
    # lengths
    "a length below zero": (gru, lambda m: m(X, lengths=[1, -1, 4]), ValueError, ["lengths must", "0 .. 4", "got -1"]),
    "a length too long": (gru, lambda m: m(X, lengths=[1, 2, 5]), ValueError, ["lengths must", "0 .. 4", "got 5"]),
    "too few lengths": (gru, lambda m: m(X, lengths=[1, 2]), ValueError, ["lengths must", "(3,)", "(2,)"]),
    "lengths of two axes": (gru, lambda m: m(X, lengths=[[1, 2, 3]]), ValueError, ["lengths must", "(3,)", "(1, 3)"]),
    "one length": (gru, lambda m: m(X, lengths=4), ValueError, ["lengths must", "(3,)", "()"]),
    "lengths float": (gru, lambda m: m(X, lengths=[1.0, 2.0, 3.0]), TypeError, ["lengths must", "integers", "float64"]),
    "lengths bool": (gru, lambda m: m(X, lengths=[True] * 3), TypeError, ["lengths must", "integers", "bool"]),
    # reset
    "reset integers": (gru, lambda m: m(X, reset=TOKENS), TypeError, ["reset must", "bool", "int64"]),
    "reset float": (gru, lambda m: m(X, reset=X[..., 0]), TypeError, ["reset must", "bool", "float32"]),
    "reset too short": (gru, lambda m: m(X, reset=TOKENS[1:] > 1), ValueError, ["reset must", "(4, 3)", "(3, 3)"]),
    "reset of three axes": (gru, lambda m: m(X, reset=X > 1), ValueError, ["reset must", "(4, 3)", "(4, 3, 5)"]),
    # state
    "state too wide": (gru, lambda m: m(X, STATE[..., :6]), ValueError, ["state must", "(2, 3, 7)", "(2, 3, 6)"]),
    "state of another batch": (gru, lambda m: m(X, STATE[:, :2]), ValueError, ["state must", "(2, 3, 7)", "(2, 2, 7)"]),
    "state of one layer": (gru, lambda m: m(X, STATE[:1]), ValueError, ["state must", "(2, 3, 7)", "(1, 3, 7)"]),
    "state of an unbatched x": (gru, lambda m: m(X[:, 0], STATE), ValueError, ["state must", "(2, 7)", "(2, 3, 7)"]),
    "state integers": (gru, lambda m: m(X, STATE.astype(int)), TypeError, ["state must", "floating point", "int64"]),
    "state a pair": (gru, lambda m: m(X, (STATE, STATE)), TypeError, ["state must", "(2, 3, 7)", "tuple"]),
    "LSTM state one array": (lstm, lambda m: m(X, STATE), TypeError, ["state must", "(h, c)", "ndarray"]),
    "LSTM state of three": (lstm, lambda m: m(X, (STATE,) * 3), TypeError, ["state must", "(h, c)", "3"]),
    "LSTM cell state wrong": (
        lstm,
        lambda m: m(X, (STATE, STATE[:1])),
        ValueError,
        ["state[1] must", "(2, 3, 7)", "(1, 3, 7)"],
    ),
    # forward and backward
    "rng a number": (gru, lambda m: m.forward(X, rng=5), TypeError, ["rng must", "CounterRng", "5"]),
    "dy too wide": (
        gru,
        lambda m: m.backward(X, None, cache_of(m)),
        ValueError,
        ["dy must", "(4, 3, 7)", "(4, 3, 5)"],
    ),
    "dy integers": (
        gru,
        lambda m: m.backward(DY.astype(int), None, cache_of(m)),
        TypeError,
        ["dy must", "floating point", "int64"],
    ),
    "dy of an unbatched x": (
        gru,
        lambda m: m.backward(DY, None, cache_of(m, X[:, 0])),
        ValueError,
        ["dy must", "(4, 7)", "(4, 3, 7)"],
    ),
    "dstate too narrow": (
        gru,
        lambda m: m.backward(DY, STATE[..., :6], cache_of(m)),
        ValueError,
        ["dstate must", "(2, 3, 7)", "(2, 3, 6)"],
    ),
    "LSTM dstate one array": (
        lstm,
        lambda m: m.backward(DY, STATE, cache_of(m)),
        TypeError,
        ["dstate must", "(h, c)", "ndarray"],
    ),
    "a cache used twice": (gru, lambda m: m.backward(DY, None, used(m)), ValueError, ["cache must", "used"]),
    "a cache of another layer": (
        gru,
        lambda m: m.backward(DY, None, cache_of(gru())),
        ValueError,
        ["cache must", "another layer"],
    ),
    "a cache that is none": (gru, lambda m: m.backward(DY, None, None), TypeError, ["cache must", "NoneType"]),
    # streams
    "a bidirectional stream": (
        lambda: gru(bidirectional=True),
        lambda m: m.stream(),
        ValueError,
        ["stream", "one direction", "bidirectional"],
    ),
    "a stream of no rows": (gru, lambda m: m.stream(0), ValueError, ["batch_size must", "at least 1", "got 0"]),
    "a step too wide": (gru, lambda m: m.stream(3).step(X[0, :, :4]), ValueError, ["x must", "(3, 5)", "(3, 4)"]),
    "a step of another batch": (gru, lambda m: m.stream(2).step(X[0]), ValueError, ["x must", "(2, 5)", "(3, 5)"]),
    "a step bool": (gru, lambda m: m.stream(3).step(X[0] > 0), TypeError, ["x must", "floating point", "bool"]),
    "a step's token too large": (gru, lambda m: m.stream(3).step([0, 5, 1]), ValueError, ["x must", "0 .. 4", "5"]),
    "out of another dtype": (
        gru,
        lambda m: m.stream(3).step(X[0], out=np.zeros((3, 7))),
        ValueError,
        ["out must", "float32", "(3, 7)", "float64"],
    ),
    "out of another shape": (
        gru,
        lambda m: m.stream(3).step(X[0], out=np.zeros((7, 3), np.float32)),
        ValueError,
        ["out must", "(3, 7)", "(7, 3)"],
    ),
    "out with gaps": (
        gru,
        lambda m: m.stream(3).step(X[0], out=np.zeros((3, 14), np.float32)[:, ::2]),
        ValueError,
        ["out must", "C-contiguous", "strides (56, 8)"],
    ),
    "out at an odd address": (
        gru,
        lambda m: m.stream(3).step(X[0], out=misaligned(np.zeros((3, 7), np.float32))),
        ValueError,
        ["out must", "aligned", "odd address"],
    ),
    "a stream's state too wide": (
        gru,
        lambda m: setattr(m.stream(3), "state", STATE[..., :6]),
        ValueError,
        ["state must", "(2, 3, 7)", "(2, 3, 6)"],
    ),
    "a stream's row too large": (gru, lambda m: m.stream(3).reset([1, 3]), ValueError, ["rows must", "3", "got 3"]),
    # Linear and Embedding
    "Linear x too narrow": (linear, lambda m: m(X[..., :4]), ValueError, ["x must", "(..., 5)", "(4, 3, 4)"]),
    "Linear x integers": (linear, lambda m: m(X.astype(int)), TypeError, ["x must", "floating point", "int64"]),
    "Linear where of another shape": (
        linear,
        lambda m: m(X, where=np.ones(4, bool)),
        ValueError,
        ["where must", "(4, 3)", "(4,)"],
    ),
    "Linear where of integers": (
        linear,
        lambda m: m.forward(X, where=np.ones((4, 3), int)),
        TypeError,
        ["where must", "bool", "int64"],
    ),
    "Linear dy too narrow": (
        linear,
        lambda m: m.backward(X, m.forward(X)[1]),
        ValueError,
        ["dy must", "(4, 3, 7)", "(4, 3, 5)"],
    ),
    "Linear cache of another layer": (
        linear,
        lambda m: m.backward(DY, linear().forward(X)[1]),
        ValueError,
        ["cache must", "another layer"],
    ),
    "Linear cache that is none": (linear, lambda m: m.backward(DY, None), TypeError, ["cache must", "NoneType"]),
    "Embedding token too large": (embedding, lambda m: m(TOKENS + 1), ValueError, ["x must", "0 .. 4", "5"]),
    "Embedding x float": (embedding, lambda m: m(X), TypeError, ["x must", "integers", "float32"]),
    "Embedding dy too narrow": (
        embedding,
        lambda m: m.backward(X, m.forward(TOKENS)[1]),
        ValueError,
        ["dy must", "(4, 3, 7)", "(4, 3, 5)"],
    ),
    "Embedding cache of another layer": (
        embedding,
        lambda m: m.backward(DY, embedding().forward(TOKENS)[1]),
        ValueError,
        ["cache must", "another layer"],
    ),
    # optimisers and clipping
    "an infinite gradient": (
        lambda: with_gradient(gru(), math.inf),
        lambda m: optim.clip_grad_norm([m], 1.0),
        FloatingPointError,
        ["norm", "finite", "inf"],
    ),
    "a NaN gradient": (
        lambda: with_gradient(gru(), NAN),
        lambda m: optim.clip_grad_norm([m], 1.0),
        FloatingPointError,
        ["norm", "finite", "nan"],
    ),
    "max_norm zero": (gru, lambda m: optim.clip_grad_norm([m], 0), ValueError, ["max_norm must", "greater", "0"]),
    "max_norm NaN": (gru, lambda m: optim.clip_grad_norm([m], NAN), ValueError, ["max_norm must", "nan"]),
    "max_norm text": (gru, lambda m: optim.clip_grad_norm([m], "5"), TypeError, ["max_norm must", "'5'"]),
    "clip_value below zero": (gru, lambda m: optim.clip_grad_value([m], -1), ValueError, ["clip_value must", "-1"]),
    "modules not modules": (gru, lambda m: optim.clip_grad_norm([m, 5], 1.0), TypeError, ["modules must", "int"]),
    "no modules": (gru, lambda m: optim.SGD(0.1).step(), ValueError, ["modules must", "at least one"]),
    "other modules than before": (
        lambda: with_gradient(gru()),
        lambda m: (lambda o: (o.step(with_gradient(linear())), o.step(m)))(optim.Adam()),
        ValueError,
        ["modules must", "steps before"],
    ),
    "lr set to NaN": (gru, lambda m: setattr(optim.Adam(), "lr", NAN), ValueError, ["lr must", "finite", "nan"]),
    "another optimiser's state": (
        gru,
        lambda m: optim.SGD(0.1).load_state_dict(optim.Adam().state_dict()),
        ValueError,
        ["state must", "SGD", "Adam"],
    ),
    "grad_scale NaN": (
        lambda: with_gradient(gru()),
        lambda m: optim.SGD(0.1).step(m, grad_scale=NAN),
        ValueError,
        ["grad_scale must", "finite", "nan"],
    ),
}


def states_of(module):
    return {k: v.copy() for k, v in module.params.items()} | {f"d{k}": v.copy() for k, v in module.grads.items()}


@pytest.mark.parametrize("name", LAYER_CASES)
def test_layers_say_what_is_wrong(name):
    make, act, kind, fragments = LAYER_CASES[name]
    module = make()
    before = states_of(module)
    step = module.rng.step if hasattr(module, "rng") else 0
    with pytest.raises(kind) as caught:
        act(module)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is not in: {message}"
    assert_same(states_of(module), before)
    assert step == (module.rng.step if hasattr(module, "rng") else 0)


LOGITS, TARGETS = np.zeros((4, 5), np.float32), np.array([0, 1, 4, 2])
WEIGHT, BIAS = np.ones((5, 3), np.float32), np.ones(5, np.float32)
ROWS = np.ones((4, 3), np.float32)


def loss(logits=LOGITS, targets=TARGETS, **options):
    return ops.softmax_cross_entropy(logits, targets, **options)


def fused(x=ROWS, weight=WEIGHT, bias=BIAS, targets=TARGETS, **options):
    return ops.linear_cross_entropy(x, weight, bias, targets, **options)


OTHER_CASES = {
    # constructors
    "input_size zero": (lambda: rnnfast.LSTM(0, 5), ValueError, ["input_size must", "at least 1", "0"]),
    "hidden_size float": (lambda: rnnfast.LSTM(5, 5.0), TypeError, ["hidden_size must", "integer", "5.0"]),
    "hidden_size bool": (lambda: rnnfast.LSTM(5, True), TypeError, ["hidden_size must", "integer", "True"]),
    "num_layers zero": (lambda: rnnfast.GRU(5, 5, 0), ValueError, ["num_layers must", "from 1 to 1000", "0"]),
    "nonlinearity unknown": (
        lambda: rnnfast.RNN(5, 5, nonlinearity="sigmoid"),
        ValueError,
        ["nonlinearity must", "'tanh'", "'relu'", "'sigmoid'"],
    ),
    "dropout one": (lambda: rnnfast.GRU(5, 5, 2, dropout=1.0), ValueError, ["dropout must", "[0, 1)", "1.0"]),
    "dropout NaN": (lambda: rnnfast.GRU(5, 5, 2, dropout=NAN), ValueError, ["dropout must", "[0, 1)", "nan"]),
    "dropout bool": (lambda: rnnfast.GRU(5, 5, 2, dropout=True), TypeError, ["dropout must", "number", "True"]),
    "bias a number": (lambda: rnnfast.GRU(5, 5, bias=1), TypeError, ["bias must", "bool", "1"]),
    "batch_first text": (lambda: rnnfast.GRU(5, 5, batch_first="no"), TypeError, ["batch_first must", "bool", "'no'"]),
    "dtype unknown": (lambda: rnnfast.GRU(5, 5, dtype="float12"), ValueError, ["dtype must", "float32", "'float12'"]),
    "dtype integer": (lambda: rnnfast.GRU(5, 5, dtype="int32"), ValueError, ["dtype must", "float64", "'int32'"]),
    "dtype None": (lambda: rnnfast.GRU(5, 5, dtype=None), ValueError, ["dtype must", "float64", "None"]),
    "compute_dtype another": (
        lambda: rnnfast.GRU(5, 5, compute_dtype="float64"),
        ValueError,
        ["compute_dtype must", "float32", "'float64'"],
    ),
    "seed below zero": (lambda: rnnfast.GRU(5, 5, seed=-1), ValueError, ["seed must", "at least 0", "-1"]),
    "seed too large": (
        lambda: rnnfast.GRU(5, 5, seed=2**64),
        ValueError,
        ["seed must", "to 18446744073709551615"],
    ),
    "seed float": (lambda: rnnfast.GRU(5, 5, seed=1.5), TypeError, ["seed must", "integer", "1.5"]),
    "step below zero": (lambda: CounterRng(1, -1), ValueError, ["step must", "at least 0", "-1"]),
    "in_features zero": (lambda: rnnfast.Linear(0, 5), ValueError, ["in_features must", "at least 1", "0"]),
    "num_embeddings zero": (lambda: rnnfast.Embedding(0, 5), ValueError, ["num_embeddings must", "at least 1", "0"]),
    "p above one": (lambda: rnnfast.Dropout(1.5), ValueError, ["p must", "[0, 1]", "1.5"]),
    "p NaN": (lambda: rnnfast.Dropout(NAN), ValueError, ["p must", "[0, 1]", "nan"]),
    "Dropout of integers": (
        lambda: rnnfast.Dropout(0.5).forward(TOKENS),
        TypeError,
        ["x must", "floating point", "int64"],
    ),
    "threads zero": (lambda: rnnfast.set_num_threads(0), ValueError, ["n must", "at least 1", "0"]),
    "threads float": (lambda: rnnfast.set_num_threads(2.0), TypeError, ["n must", "integer", "2.0"]),
    # losses
    "label_smoothing one": (lambda: loss(label_smoothing=1.0), ValueError, ["label_smoothing", "[0, 1)", "1.0"]),
    "label_smoothing and weights": (
        lambda: fused(label_smoothing=0.1, weights=np.ones(5)),
        ValueError,
        ["weights must", "None", "label_smoothing", "0.1"],
    ),
    "logits integers": (lambda: loss(TARGETS), TypeError, ["logits must", "floating point", "int64"]),
    "logits without classes": (lambda: loss(LOGITS[:, :0]), ValueError, ["logits must", "at least 1", "(4, 0)"]),
    "targets float": (lambda: loss(targets=LOGITS[:, 0]), TypeError, ["targets must", "integers", "float32"]),
    "targets too few": (lambda: loss(targets=TARGETS[:3]), ValueError, ["targets must", "(4,)", "(3,)"]),
    "a target too large": (lambda: loss(targets=TARGETS + 1), ValueError, ["targets must", "0 .. 4", "5"]),
    "a target below zero": (lambda: loss(targets=TARGETS - 1), ValueError, ["targets must", "0 .. 4", "-1"]),
    "another target below zero": (
        lambda: loss(targets=TARGETS - 2, ignore_index=-1),
        ValueError,
        ["targets must", "0 .. 4", "-2"],
    ),
    "ignore_index float": (lambda: loss(ignore_index=1.0), TypeError, ["ignore_index must", "integer", "1.0"]),
    "class weights too few": (lambda: loss(weights=BIAS[:4]), ValueError, ["weights must", "(5,)", "(4,)"]),
    "class weights below zero": (lambda: loss(weights=-BIAS), ValueError, ["weights must", "at least 0", "-1"]),
    "class weights NaN": (lambda: loss(weights=NAN * BIAS), ValueError, ["weights must", "finite", "nan"]),
    "reduction unknown": (lambda: loss(reduction="avg"), ValueError, ["reduction must", "'mean'", "'avg'"]),
    "fused x too wide": (lambda: fused(x=LOGITS), ValueError, ["x must", "(..., 3)", "(4, 5)"]),
    "fused weight of one axis": (lambda: fused(weight=BIAS), ValueError, ["weight must", "(V, H)", "(5,)"]),
    "fused weight integers": (lambda: fused(weight=WEIGHT.astype(int)), TypeError, ["weight must", "float32", "int64"]),
    "fused bias too short": (lambda: fused(bias=BIAS[:4]), ValueError, ["bias must", "(5,)", "(4,)"]),
    "fused target too large": (lambda: fused(targets=TARGETS + 1), ValueError, ["targets must", "0 .. 4", "5"]),
    "fused dweight of another dtype": (
        lambda: fused(dweight=np.zeros((5, 3))),
        TypeError,
        ["dweight must", "float32", "float64"],
    ),
    "fused dweight of another shape": (
        lambda: fused(dweight=WEIGHT.T.copy()),
        ValueError,
        ["dweight must", "(5, 3)", "(3, 5)"],
    ),
    "fused dweight with gaps": (
        lambda: fused(dweight=np.zeros((5, 6), np.float32)[:, ::2]),
        ValueError,
        ["dweight must", "C-contiguous", "strides (24, 8)"],
    ),
    "fused dbias alone": (lambda: fused(dbias=BIAS.copy()), ValueError, ["dbias must", "dweight"]),
    # optimisers
    "lr NaN": (lambda: optim.Adam(lr=NAN), ValueError, ["lr must", "finite", "nan"]),
    "lr infinite": (lambda: optim.SGD(lr=math.inf), ValueError, ["lr must", "finite", "inf"]),
    "lr below zero": (lambda: optim.RMSprop(lr=-0.1), ValueError, ["lr must", "at least 0", "-0.1"]),
    "lr text": (lambda: optim.AdamW(lr="1e-3"), TypeError, ["lr must", "number", "'1e-3'"]),
    "beta one": (lambda: optim.Adam(betas=(0.9, 1.0)), ValueError, ["betas[1] must", "[0, 1)", "1.0"]),
    "betas one number": (lambda: optim.Adam(betas=0.9), TypeError, ["betas must", "pair", "0.9"]),
    "eps below zero": (lambda: optim.Adam(eps=-1e-8), ValueError, ["eps must", "at least 0", "-1e-08"]),
    "momentum NaN": (lambda: optim.SGD(0.1, momentum=NAN), ValueError, ["momentum must", "finite", "nan"]),
    "nesterov without momentum": (lambda: optim.SGD(0.1, nesterov=True), ValueError, ["nesterov", "momentum", "0"]),
    "alpha one": (lambda: optim.RMSprop(alpha=1.0), ValueError, ["alpha must", "[0, 1)", "1.0"]),
    "weight_decay below zero": (
        lambda: optim.AdamW(weight_decay=-1),
        ValueError,
        ["weight_decay must", "at least 0", "-1"],
    ),
    "a damaged optimiser state": (
        lambda: optim.Adam().load_state_dict({"type": "Adam"}),
        ValueError,
        ["state must", "hyper"],
    ),
}


@pytest.mark.parametrize("name", OTHER_CASES)
def test_functions_and_constructors_say_what_is_wrong(name):
    act, kind, fragments = OTHER_CASES[name]
    threads = rnnfast.get_num_threads()
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is not in: {message}"
    assert rnnfast.get_num_threads() == threads


def test_a_wrong_call_does_not_use_up_the_cache():
    layer = gru()
    y, _, cache = layer.forward(X)
    expected, _ = layer.backward(y, None, cache, keep_cache=True)
    for dy, dstate in ((X, None), (y, STATE[:1])):
        with pytest.raises(ValueError):
            layer.backward(dy, dstate, cache)
    assert_same({"dx": layer.backward(y, None, cache)[0]}, {"dx": expected})


def test_fused_gradients_are_unchanged_after_an_error():
    dweight, dbias = np.full((5, 3), 0.5, np.float32), np.full(5, 0.5, np.float32)
    for options in ({"targets": TARGETS + 1}, {"weights": BIAS[:4]}, {"reduction": "avg"}, {"x": LOGITS}):
        with pytest.raises(ValueError):
            fused(dweight=dweight, dbias=dbias, **options)
    assert (dweight == 0.5).all() and (dbias == 0.5).all()


def test_there_are_enough_cases():
    assert len(LAYER_CASES) + len(OTHER_CASES) >= 45
