"""Small tasks that a sequence model learns in seconds, for the tests of rnnfast.classify."""

import numpy as np

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


SMALL = {"hidden_size": 16, "learning_rate": 1e-2, "seed": 1}
