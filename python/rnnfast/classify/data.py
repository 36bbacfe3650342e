"""What the caller passed as X, y and lengths, checked row by row: lists of sequences, and their targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._inputs import as_array

__all__ = [
    "as_labels",
    "as_numbers",
    "check_steps",
    "encode",
    "fingerprint",
    "is_list",
    "looks_swapped",
    "mean_and_deviation",
    "per_step",
    "read_sequences",
    "split",
]

Array: TypeAlias = NDArray[Any]
Sequences: TypeAlias = list[Array]  # (T_i, C) floats of one dtype, or (T_i,) int32 tokens


# ---- X ----


def read_sequences(X: Any, lengths: Any, *, channels_first: bool, dtype: np.dtype[Any]) -> Sequences:
    """X as a list of C-contiguous sequences, with what lies past their ends left out.

    Raises TypeError or ValueError naming the first sequence that is empty, of another width than the first, or not
    finite.
    """
    if is_list(X):
        if lengths is not None:
            raise ValueError("lengths must be None where X is a list of sequences, which have their own")
        return _read_list(X, channels_first, dtype)
    array = as_array("X", X)
    tokens = array.dtype.kind in "iu" and array.ndim == 2
    if array.ndim != 3 and not tokens:
        axes = "(N, C, T)" if channels_first else "(N, T, C)"
        one = " (series of one channel: X[:, None, :])" if channels_first else " (series of one channel: X[:, :, None])"
        raise ValueError(
            f"X must have shape {axes}{one if array.ndim == 2 else ''}, or be integers (N, T) or a list of sequences, "
            f"got {array.dtype} of shape {array.shape}"
        )
    if channels_first and not tokens:
        array = array.transpose(0, 2, 1)
    if 0 in array.shape:
        what = ("sequence", "step", "channel")[array.shape.index(0)]
        raise ValueError(f"X must hold at least one {what}, got shape {np.shape(X)}")
    ends = _ends(lengths, *array.shape[:2])
    rows = array if tokens else _rounded(array, dtype)
    return [_checked(i, rows[i, :end], array[i, :end]) for i, end in enumerate(ends)]


def is_list(X: Any) -> bool:
    """A list of sequences, and not an array written as nested lists."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1
    return isinstance(X, list | tuple) and (not len(X) or any(not isinstance(x, list | tuple) for x in X) or _ragged(X))


def _ragged(X: Sequence[Any]) -> bool:
    return len({len(x) for x in X}) > 1


def _read_list(X: Any, channels_first: bool, dtype: np.dtype[Any]) -> Sequences:
    if not len(X):
        raise ValueError("X must hold at least one sequence, got none")
    arrays = [as_array(f"X[{i}]", x) for i, x in enumerate(X)]
    tokens = arrays[0].ndim == 1 and arrays[0].dtype.kind in "iu"
    if arrays[0].ndim != (1 if tokens else 2):
        axes = "(C, T)" if channels_first else "(T, C)"
        got = f"{arrays[0].dtype} of shape {arrays[0].shape}"
        raise ValueError(f"X[0] must have shape {axes}, or be integers (T,), got {got}")
    if channels_first and not tokens:
        arrays = [a.T for a in arrays]
    width = arrays[0].shape[1:]
    for i, a in enumerate(arrays):
        if tokens and (a.ndim != 1 or (a.dtype.kind not in "iu" and a.size)):
            raise ValueError(f"X[{i}] must be integers (T,) as X[0] is, got {a.dtype} of shape {a.shape}")
        if a.ndim != arrays[0].ndim or a.shape[1:] != width:
            axes = f"({width[0]}, T)" if channels_first else f"(T, {width[0]})"
            swapped = "" if channels_first or len({len(b) for b in arrays}) > 1 else "; channels_first takes (C, T)"
            raise ValueError(f"X[{i}] must have shape {axes} as X[0] has, got {np.shape(X[i])}{swapped}")
    return [_checked(i, a if tokens else _rounded(a, dtype), a) for i, a in enumerate(arrays)]


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # _checked says which number is too large
        return np.ascontiguousarray(array, dtype)


def _checked(i: int, sequence: Array, given: Array) -> Array:
    """A sequence in the dtype that was asked for, of the one that was given."""
    if not len(sequence) or 0 in sequence.shape:
        raise ValueError(f"X[{i}] must have at least one step, got shape {sequence.shape}")
    if sequence.ndim == 1:
        if sequence.min() < 0 or sequence.max() >= 2**31:
            wrong = sequence < 0 if sequence.min() < 0 else sequence >= 2**31
            raise ValueError(f"X[{i}] must hold tokens from 0 on, got {sequence[wrong][0]} at step {wrong.argmax()}")
        return np.ascontiguousarray(sequence, np.int32)
    finite = np.isfinite(sequence)
    if not finite.all():
        step, channel = (int(at) for at in np.argwhere(~finite)[0])
        got, where = given[step, channel], "" if not np.isfinite(given[step, channel]) else f" in {sequence.dtype}"
        raise ValueError(f"X[{i}] must be finite{where}, got {got} at step {step}, channel {channel}")
    return sequence


def _ends(lengths: Any, count: int, steps: int) -> NDArray[Any]:
    if lengths is None:
        return np.full(count, steps)
    ends = as_array("lengths", lengths)
    if ends.dtype.kind not in "iu" or ends.shape != (count,):
        raise ValueError(f"lengths must be integers of shape ({count},), got {ends.dtype} of shape {ends.shape}")
    wrong = (ends < 1) | (ends > steps)
    if wrong.any():
        raise ValueError(f"lengths[{wrong.argmax()}] must be in 1 .. {steps}, got {ends[wrong][0]}")
    return ends


def looks_swapped(sequences: Sequences) -> bool:
    """Whether these sequences have fewer steps than channels, as happens where the two axes were exchanged."""
    return sequences[0].ndim == 2 and float(np.median([len(s) for s in sequences])) < sequences[0].shape[1]


# ---- y ----


def as_labels(name: str, y: Any, count: int) -> Array:
    """(count,) labels: integers, booleans, strings, or floats that are whole numbers."""
    try:
        labels = np.asarray(y)
        if labels.dtype.kind in "OT":  # objects, or strings of any length
            y = labels.tolist()
            labels = np.asarray(y)
    except ValueError as e:
        raise ValueError(f"{name} must be labels of shape ({count},), got lists of different lengths") from e
    if labels.shape != (count,):
        raise ValueError(f"{name} must hold one label each, of shape ({count},), got shape {labels.shape}")
    strings = [isinstance(v, str) for v in y] if isinstance(y, list | tuple) else []
    if any(strings) and not all(strings):  # NumPy has made strings of all of them
        wrong, kind = strings.index(not strings[0]), "a string" if strings[0] else "an integer"
        raise TypeError(f"{name}[{wrong}] must be a label, {kind} as {name}[0] is, got {y[wrong]!r}")
    if labels.dtype.kind not in "iubUf":
        wrong = next((i for i, v in enumerate(labels) if not isinstance(v, str | int | np.generic)), 0)
        raise TypeError(f"{name}[{wrong}] must be a label, a string or an integer, got {labels[wrong]!r}")
    if labels.dtype.kind == "f":
        wrong = ~(np.isfinite(labels) & (labels == np.round(labels)))
        if wrong.any():
            raise ValueError(
                f"{name}[{wrong.argmax()}] must be a label, a string or a whole number, got {labels[wrong][0]} "
                "(SequenceRegressor learns numbers)"
            )
    return labels


def encode(name: str, labels: Array, classes: Array) -> NDArray[np.int32]:
    """The labels as indices into the sorted classes."""
    comparable = (labels.dtype.kind == "U") == (classes.dtype.kind == "U")
    at = np.searchsorted(classes, labels) if comparable else np.zeros(labels.shape, int)
    at = np.minimum(at, len(classes) - 1)
    wrong = classes[at] != labels if comparable else np.ones(labels.shape, bool)
    if wrong.any():
        known = ", ".join(repr(c) for c in classes[:10].tolist()) + (", …" if len(classes) > 10 else "")
        raise ValueError(
            f"{name}[{wrong.argmax()}] must be one of the classes {known}, got {labels[wrong].tolist()[0]!r}"
        )
    return at.astype(np.int32)


def as_numbers(name: str, y: Any, count: int, outputs: int | None) -> Array:
    """(count, K) float64 numbers, of (count,) or (count, K); K is `outputs` where that is given."""
    try:
        values = as_array(name, y).astype(np.float64)
    except TypeError as e:
        if isinstance(y, list | tuple) and len({np.shape(v) for v in y}) > 1:
            raise ValueError(
                f"{name} must have shape ({count},) or ({count}, K), got rows of different lengths (per_step=True "
                "learns a number for each step)"
            ) from e
        raise
    if values.ndim not in (1, 2) or len(values) != count or (values.ndim == 2 and not values.shape[1]):
        raise ValueError(f"{name} must have shape ({count},) or ({count}, K), got {values.shape}")
    values = values.reshape(count, -1)
    if outputs is not None and values.shape[1] != outputs:
        raise ValueError(f"{name} must have {outputs} outputs, got {values.shape[1]}")
    finite = np.isfinite(values)
    if not finite.all():
        row, output = np.argwhere(~finite)[0]
        raise ValueError(f"{name}[{row}] must be finite, got {values[row, output]}")
    return values


def check_steps(y: Any, X: Any, *, channels_first: bool) -> None:
    """Raise ValueError where an array of targets has more steps than an array of sequences: `per_step` would cut it."""
    if is_list(X) or not hasattr(y, "__array__") or np.ndim(y) < 2:
        return
    count, *axes = np.shape(X)
    steps = axes[-1 if channels_first else 0]
    if np.shape(y)[1] > steps:
        raise ValueError(f"y must have shape ({count}, {steps}), a target for each step of X, got {np.shape(y)}")


def per_step(y: Any, sequences: Sequences) -> list[Any]:
    """y as one entry a sequence, cut to its length where y is an array of rows as long as the longest."""
    count = len(sequences)
    y = np.asarray(y) if hasattr(y, "__array__") else y
    if isinstance(y, np.ndarray) and (y.dtype != object or y.ndim > 1):
        if y.ndim < 2 or len(y) != count or y.shape[1] < max(map(len, sequences)):
            longest = max(map(len, sequences))
            raise ValueError(f"y must have shape ({count}, {longest}) or be a list of {count}, got shape {y.shape}")
        return [row[: len(s)] for row, s in zip(y, sequences, strict=True)]
    if not isinstance(y, list | tuple | np.ndarray):
        raise TypeError(f"y must be an array or a list of arrays, got {type(y).__name__}")
    if len(y) != count:
        raise ValueError(f"y must hold one entry for each of the {count} sequences, got {len(y)}")
    for i, (row, s) in enumerate(zip(y, sequences, strict=True)):
        if not np.ndim(row) or len(row) != len(s):
            got = len(row) if np.ndim(row) else repr(row)
            raise ValueError(f"y[{i}] must have {len(s)} targets, one a step, got {got}")
    return list(y)


# ---- all of it ----


def split(count: int, part: float, seed: int, classes: Array | None = None) -> tuple[Array, Array]:
    """Indices to train and to validate on, floor(count * part) of them, drawn by the seed; of each class about the same
    part, and none of which all are taken."""
    order = np.random.default_rng([seed, 2**32]).permutation(count)  # another key than any epoch's
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    ranks = np.arange(count + 1) * part
    taken = np.floor(ranks[1:]) > np.floor(ranks[:-1])
    if classes is not None:
        of = np.unique(classes[order], return_inverse=True)[1]  # begins anew where a class does
        first = np.flatnonzero(np.diff(of, prepend=-1))
        taken[first[np.bincount(of[~taken], minlength=len(first)) == 0]] = False
    return np.sort(order[~taken]), np.sort(order[taken])


def mean_and_deviation(arrays: list[Array]) -> tuple[Array, Array]:
    """Of each channel, over all steps, in float64; a channel that never changes has deviation 1."""
    count = sum(len(a) for a in arrays)
    mean = sum(a.sum(axis=0, dtype=np.float64) for a in arrays) / count
    variance = sum(np.square(a - mean).sum(axis=0) for a in arrays) / count
    # The mean of equal numbers may be another one by its last bit, so a variance above 0 is not enough.
    changes = np.any([(a != arrays[0][0]).any(axis=0) for a in arrays], axis=0)
    return np.asarray(mean), np.where(changes & (variance > 0), np.sqrt(variance), 1.0)


def fingerprint(*lists: Sequence[Array]) -> str:
    """A hash of all numbers and where one sequence ends."""
    digest = hashlib.sha256()
    for arrays in lists:
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
