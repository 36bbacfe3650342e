"""Small tasks that a sequence model learns in seconds, for the tests of rnnfast.classify."""

from pathlib import Path

import numpy as np

from rnnfast.classify import SequenceClassifier, SequenceLabeler, SequenceRegressor

C = 3


def ragged(count, seed=0, tokens=False):
    """Sequences of 2 to 12 steps."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 13, count)
    if tokens:
        return [rng.integers(0, 5, n) for n in lengths]
    return [rng.standard_normal((n, C)).astype(np.float32) for n in lengths]


def largest_channel(X):
    """Which channel has the largest sum over the steps."""
    return np.array(["red", "green", "blue"])[[int(x.sum(axis=0).argmax()) for x in X]]


def running_sign(X):
    """Whether the sum so far is positive, at each step."""
    return [np.cumsum(x[:, 0]) > 0 for x in X]


def write_ts(path, X, y):
    lines = [
        "# a comment",
        "@problemName test",
        "@timeStamps false",
        f"@classLabel true {' '.join(sorted(set(y)))}",
        "@data",
    ]
    for x, label in zip(X, y, strict=True):
        lines.append(":".join([*(",".join(repr(float(v)) for v in x[:, c]) for c in range(C)), label]))
    Path(path).write_text("\n".join(lines) + "\n")


SMALL = {"hidden_size": 16, "learning_rate": 1e-2, "seed": 1}
X, Y = ragged(300), largest_channel(ragged(300))
NEW = ragged(100, seed=9)
MAKE = {
    "classifier": (SequenceClassifier, largest_channel, {}),
    "labeler": (SequenceLabeler, running_sign, {}),
    "regressor": (SequenceRegressor, lambda X: np.array([x.sum() for x in X]), {"scale": True}),
    "regressor of two": (SequenceRegressor, lambda X: np.array([x[:, :2].sum(0) for x in X]), {"scale": True}),
    "regressor per step": (SequenceRegressor, lambda X: [np.cumsum(x[:, 0]) for x in X], {"per_step": True}),
    "regressor of two per step": (SequenceRegressor, lambda X: [x.cumsum(0)[:, :2] for x in X], {"per_step": True}),
}


def make(kind, **params):
    cls, targets, extra = MAKE[kind]
    return cls(**(SMALL | extra | params)), targets


def quick(kind, **params):
    estimator, targets = make(kind, **({"max_steps": 12} | params))
    return estimator.fit(X, targets(X))
