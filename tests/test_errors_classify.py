"""Bad data and parameters of rnnfast.classify: one clear error each, with the argument and the row."""

from __future__ import annotations

import numpy as np
import pytest

from classify_data import C, ragged
from rnnfast.classify import SequenceClassifier, SequenceLabeler, SequenceRegressor

X = ragged(20)
Y = np.arange(20) % 3
STEPS = [np.arange(len(x)) % 2 for x in X]
TOKENS = ragged(20, tokens=True)
ARRAY = np.random.default_rng(0).standard_normal((20, 6, C))


def changed(rows, at, value):
    return [value if i == at else row for i, row in enumerate(rows)]


def with_value(at, step, channel, value):
    x = X[at].astype(np.float64)
    x[step, channel] = value
    return changed(X, at, x)


def fit(X, Y, cls=SequenceClassifier, lengths=None, validation=None, **params):
    return lambda: cls(**({"max_steps": 1, "seed": 0} | params)).fit(X, Y, lengths=lengths, validation=validation)


def fitted(call, X=X, Y=Y, cls=SequenceClassifier, **params):
    return lambda: call(fit(X, Y, cls, **params)())


CASES = {
    # X
    "no sequences": (fit([], []), ValueError, ["X must hold at least one sequence", "got none"]),
    "no sequences in an array": (fit(ARRAY[:0], []), ValueError, ["X must", "sequence", "(0, 6, 3)"]),
    "no steps in an array": (fit(ARRAY[:, :0], Y), ValueError, ["X must", "step", "(20, 0, 3)"]),
    "no channels": (fit(ARRAY[..., :0], Y), ValueError, ["X must", "channel", "(20, 6, 0)"]),
    "an empty sequence": (fit(changed(X, 7, X[7][:0]), Y), ValueError, ["X[7] must", "one step", "(0, 3)"]),
    "an empty sequence of tokens": (fit(changed(TOKENS, 7, []), Y), ValueError, ["X[7] must", "one step", "(0,)"]),
    "another width": (fit(changed(X, 7, X[7][:, :2]), Y), ValueError, ["X[7] must", "(T, 3) as X[0]", "2)"]),
    "lists channels first": (fit([x.T for x in X], Y), ValueError, ["must have shape (T, ", "channels_first"]),
    "NaN": (fit(with_value(7, 1, 2, np.nan), Y), ValueError, ["X[7] must be finite", "nan at step 1, channel 2"]),
    "beyond float32": (fit(with_value(7, 1, 2, 1e300), Y), ValueError, ["X[7] must be finite in float32", "1e+300"]),
    "infinity": (fit(with_value(0, 0, 0, -np.inf), Y), ValueError, ["X[0] must be finite", "-inf at step 0"]),
    "NaN in an array": (fit(np.where(ARRAY > 2.5, np.nan, ARRAY), Y), ValueError, ["X[", "finite", "nan at step"]),
    "two axes of numbers": (fit(ARRAY[..., 0], Y), ValueError, ["X must", "(N, T, C)", "X[:, :, None]", "(20, 6)"]),
    "four axes": (fit(ARRAY[None], Y), ValueError, ["X must", "(N, T, C)", "(1, 20, 6, 3)"]),
    "a table in a list": (fit([ARRAY, ARRAY], Y), ValueError, ["X[0] must", "(T, C)", "(20, 6, 3)"]),
    "text": (fit("to be", Y), TypeError, ["X must be floating point or integers", "<U5"]),
    "None": (fit(None, Y), TypeError, ["X must be floating point or integers", "object"]),
    "None in a list": (fit(changed(X, 7, None), Y), TypeError, ["X[7] must be floating point", "object"]),
    "text in a list": (fit(changed(X, 7, "ab"), Y), TypeError, ["X[7] must be floating point", "<U2"]),
    "bool": (fit(ARRAY > 0, Y), TypeError, ["X must be floating point", "bool"]),
    "numbers among tokens": (fit(changed(TOKENS, 7, X[7]), Y), ValueError, ["X[7] must be integers", "float32"]),
    "tokens among numbers": (fit(changed(X, 7, TOKENS[7]), Y), ValueError, ["X[7] must have shape (T, 3)", "("]),
    "a token below zero": (
        fit(changed(TOKENS, 7, [1, -2]), Y),
        ValueError,
        ["X[7] must", "from 0 on, got -2 at step 1"],
    ),
    "a token beyond vocab_size": (
        fit(changed(TOKENS, 7, [1, 9]), Y, vocab_size=9),
        ValueError,
        ["X[7] must hold tokens in 0 .. 8, got 9 at step 1"],
    ),
    "a token by mistake": (
        fit(changed(TOKENS, 7, [1, 2**31 - 1]), Y, hidden_size=10**6),
        MemoryError,
        ["for a model of 2,147,483,648 tokens, as the largest in X or vocab_size says"],
    ),
    # lengths
    "a length of zero": (
        fit(ARRAY, Y, lengths=changed([6] * 20, 7, 0)),
        ValueError,
        ["lengths[7] must", "1 .. 6, got 0"],
    ),
    "a length too long": (fit(ARRAY, Y, lengths=changed([6] * 20, 7, 8)), ValueError, ["lengths[7] must", "got 8"]),
    "too few lengths": (fit(ARRAY, Y, lengths=[6, 6]), ValueError, ["lengths must", "(20,)", "(2,)"]),
    "lengths of a list": (fit(X, Y, lengths=[6] * 20), ValueError, ["lengths must be None where X is a list"]),
    # y
    "too few labels": (fit(X, Y[:19]), ValueError, ["y must hold one label each", "(20,)", "(19,)"]),
    "labels of two axes": (fit(X, Y[:, None]), ValueError, ["y must hold one label each", "(20,)", "(20, 1)"]),
    "ragged labels": (fit(X, STEPS), ValueError, ["y must be labels of shape (20,)", "different lengths"]),
    "a label that is None": (fit(X, changed(list("ab" * 10), 7, None)), TypeError, ["y[7] must be a label", "None"]),
    "a missing label": (
        fit(X, np.array(changed(list("ab" * 10), 7, np.nan), object)),
        TypeError,
        ["y[7] must be a label, a string as y[0] is, got nan"],
    ),
    "a string among numbers": (
        fit(X, changed(Y.tolist(), 7, "1")),
        TypeError,
        ["y[7] must be a label, an integer", "1"],
    ),
    "a masked array": (fit(np.ma.masked_greater(ARRAY, 2), Y), TypeError, ["X must be an array without a mask"]),
    "a label that is NaN": (fit(X, changed(Y.tolist(), 7, np.nan)), ValueError, ["y[7] must be a label", "nan"]),
    "a label that is a number": (fit(X, Y + 0.5), ValueError, ["y[0] must be a label", "0.5", "SequenceRegressor"]),
    "one class": (fit(X, Y * 0), ValueError, ["y must hold at least 2 classes, got 1: [0]"]),
    "labels of steps, one short": (
        fit(X, changed(STEPS, 7, STEPS[7][:-1]), SequenceLabeler),
        ValueError,
        ["y[7] must have", "targets, one a step", f"got {len(X[7]) - 1}"],
    ),
    "labels of steps, one a sequence": (fit(X, list(Y), SequenceLabeler), ValueError, ["y[0] must have", "got "]),
    "labels of steps, an array": (fit(X, Y, SequenceLabeler), ValueError, ["y must have shape (20, 12)", "(20,)"]),
    "labels of more steps than X": (
        fit(ARRAY, np.zeros((20, 7)), SequenceLabeler),
        ValueError,
        ["y must have shape (20, 6), a target for each step of X, got (20, 7)"],
    ),
    "labels of more steps than X has, of channels first, with lengths": (
        fit(ARRAY, np.zeros((20, 4)), SequenceLabeler, lengths=[2] * 20, channels_first=True),
        ValueError,
        ["y must have shape (20, 3)", "got (20, 4)"],
    ),
    "numbers of more steps than X": (
        fit(ARRAY, np.zeros((20, 7, 2)), SequenceRegressor, per_step=True),
        ValueError,
        ["y must have shape (20, 6)", "got (20, 7, 2)"],
    ),
    "validation of more steps than X": (
        fit(ARRAY, np.arange(120).reshape(20, 6) % 2, SequenceLabeler, validation=(ARRAY, np.zeros((20, 7)))),
        ValueError,
        ["validation: y must have shape (20, 6)", "got (20, 7)"],
    ),
    "labels of steps of other sequences": (fit(X, STEPS[:3], SequenceLabeler), ValueError, ["y must", "20", "got 3"]),
    "a step's label is NaN": (
        fit(X, changed(STEPS, 7, np.r_[np.nan, STEPS[7][1:]]), SequenceLabeler),
        ValueError,
        ["y[7][0] must be a label", "nan"],
    ),
    "labels of two kinds": (
        fit(X, changed(STEPS, 7, STEPS[7].astype(str)), SequenceLabeler),
        ValueError,
        ["y must hold labels of one kind"],
    ),
    "a number that is NaN": (fit(X, np.r_[1.0, np.nan, Y[2:]], SequenceRegressor), ValueError, ["y[1] must be finite"]),
    "numbers of different lengths": (
        fit(X, [x[:, 0] for x in X], SequenceRegressor),
        ValueError,
        ["y must have shape (20,) or (20, K), got rows of different lengths", "per_step=True"],
    ),
    "too few numbers": (fit(X, Y[:3], SequenceRegressor), ValueError, ["y must have shape (20,) or (20, K)", "(3,)"]),
    "numbers that are text": (fit(X, list("ab" * 10), SequenceRegressor), TypeError, ["y must be floating point"]),
    "numbers of steps, one short": (
        fit(X, changed(STEPS, 7, STEPS[7][1:]), SequenceRegressor, per_step=True),
        ValueError,
        ["y[7] must have", "targets"],
    ),
    "a step's number is infinite": (
        fit(X, changed(STEPS, 7, np.full(len(X[7]), np.inf)), SequenceRegressor, per_step=True),
        ValueError,
        ["y[7][0] must be finite"],
    ),
    # validation
    "validation is no pair": (fit(X, Y, validation=X), TypeError, ["validation must be (X, y)", "list"]),
    "validation of another width": (
        fit(X, Y, validation=([x[:, :2] for x in X], Y)),
        ValueError,
        ["validation: X must have 3 channels as in fit, got 2"],
    ),
    "validation with a new label": (
        fit(X, Y, validation=(X, changed(Y, 7, 9))),
        ValueError,
        ["validation: y[7] must be one of the classes 0, 1, 2, got 9"],
    ),
    # a fitted model
    "predict another width": (fitted(lambda m: m.predict(ARRAY[..., :2])), ValueError, ["X must have 3 channels", "2"]),
    "predict tokens": (fitted(lambda m: m.predict(TOKENS)), ValueError, ["X must be numbers as in fit, got tokens"]),
    "predict numbers": (fitted(lambda m: m.predict(X), X=TOKENS), ValueError, ["X must be tokens as in fit"]),
    "predict a new token": (
        fitted(lambda m: m.predict([[1], [2, 5]]), X=TOKENS),
        ValueError,
        ["X[1] must hold tokens in 0 .. 4, got 5 at step 1"],
    ),
    "score a new label": (
        fitted(lambda m: m.score(X, changed(Y, 7, 3))),
        ValueError,
        ["y[7] must be one of the classes"],
    ),
    "score labels of another kind": (
        fitted(lambda m: m.score(X, Y.astype(str))),
        ValueError,
        ["y[0] must be one of the classes 0, 1, 2, got '0'"],
    ),
    "score more outputs": (
        fitted(lambda m: m.score(X, np.ones((20, 2))), cls=SequenceRegressor),
        ValueError,
        ["y must have 1 outputs, got 2"],
    ),
    # parameters
    "hidden_size": (fit(X, Y, hidden_size=0), ValueError, ["hidden_size must be an integer of at least 1, got 0"]),
    "hidden_size bool": (fit(X, Y, hidden_size=True), ValueError, ["hidden_size must be an integer", "True"]),
    "cell": (fit(X, Y, cell="transformer"), ValueError, ["cell must be one of lstm, gru, rnn, got 'transformer'"]),
    "nonlinearity": (fit(X, Y, nonlinearity="relu"), ValueError, ["nonlinearity must be 'tanh' for cell 'lstm'"]),
    "vocab_size of numbers": (fit(X, Y, vocab_size=9), ValueError, ["vocab_size must be None where X is not tokens"]),
    "pooling": (fit(X, Y, pooling="sum"), ValueError, ["pooling must be one of last, mean, max, got 'sum'"]),
    "dropout": (
        fit(X, Y, dropout=1.0),
        ValueError,
        ["dropout must be a number of at least 0 and less than 1, got 1.0"],
    ),
    "val_frac": (fit(X, Y, val_frac=1), ValueError, ["val_frac must be", "got 1"]),
    "patience alone": (fit(X, Y, val_frac=0, patience=2), ValueError, ["patience must be None with val_frac 0"]),
    "patience without validation": (
        fit(X[:9], Y[:9], patience=2),
        ValueError,
        ["patience must be None without a validation part", "val_frac"],
    ),
    "plateau without validation": (
        fit(X[:9], Y[:9], schedule="plateau"),
        ValueError,
        ["schedule must be another one without a validation part", "'plateau'"],
    ),
    "augment": (fit(X, Y, augment=3), ValueError, ["augment must be None or a function", "got 3"]),
    "embedding of numbers": (fit(X, Y, embedding_size=3), ValueError, ["embedding_size must be None where X is not"]),
    "compute_dtype": (fit(X, Y, dtype="float64", compute_dtype="bfloat16"), ValueError, ["compute_dtype must", "None"]),
    "class_weight": (fit(X, Y, class_weight="heavy"), ValueError, ["class_weight must be None, 'balanced' or a dict"]),
    "class_weight of no class": (
        fit(X, Y, class_weight={7: 1.0}),
        ValueError,
        ["class_weight", "must be one of the classes 0, 1, 2, got 7"],
    ),
    "class_weight of text": (fit(X, Y, class_weight={1: "a"}), ValueError, ["class_weight must be", "numbers", "'a'"]),
    "class_weight below zero": (fit(X, Y, class_weight={1: -1.0}), ValueError, ["class_weight must be", "-1.0"]),
    "class_weight of None": (
        fit(X, Y, class_weight={None: 1.0}),
        ValueError,
        ["class_weight must be", "labels", "None"],
    ),
    "class_weight of a pair": (fit(X, Y, class_weight={(1, 2): 1.0}), ValueError, ["class_weight must be", "(1, 2)"]),
    "augment gives none": (
        fit(X, Y, augment=lambda x, rng: x[:-1]),
        ValueError,
        ["augment must return a list of", "sequences"],
    ),
    "augment gives another width": (
        fit(X, Y, augment=lambda x, rng: [s[:, :2] for s in x]),
        ValueError,
        ["augment must return", "(T, 3)"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(case):
    call, error, words = CASES[case]
    with pytest.raises(error) as e:
        call()
    message = str(e.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message


def test_there_are_enough_cases():
    assert len(CASES) >= 50
