"""Attention: `rnnfast.ops.attention` and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._inputs import as_array, as_float, read_lengths
from ._threads import get_num_threads

__all__ = ["attention", "attention_backward"]

Array = NDArray[Any]


def attention(query: Any, keys: Any, values: Any, lengths: Any = None, v: Any = None) -> tuple[Array, Array]:
    """For each query a mean of its sequence's values, weighted by the softmax of its scores with their keys.

    Args:
        query: (T, B, K) float32 or float64 numbers; the other arrays are converted to their dtype.
        keys: (S, B, K).
        values: (S, B, E).
        lengths: (B,) integers in 0 .. S: keys and values behind them have no weight and are never looked at; None: S.
        v: None scores query . key (Luong et al. 2015); (K,) numbers score v . tanh(query + key) (Bahdanau et al. 2015).

    Returns:
        context (T, B, E), and the weights (T, B, S), whose rows sum to 1 (of a sequence without keys both are 0).

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.

    A result depends on its own query and sequence alone: neither the batch nor padding nor threads change a bit of it.
    """
    context, weights = _core.attention_forward(*_checked(query, keys, values, lengths, v), get_num_threads())
    return context, weights


def attention_backward(
    dcontext: Any, weights: Any, query: Any, keys: Any, values: Any, lengths: Any = None, v: Any = None
) -> tuple[Array, Array, Array, Array | None]:
    """The gradients of query, keys, values and v (None without one).

    Args:
        dcontext: (T, B, E), the gradient of the context.
        weights: what `attention` returned for the other arguments, which are the same.
    """
    inputs = _checked(query, keys, values, lengths, v)
    q, k, e = inputs[0], inputs[1], inputs[2]
    steps, batch = q.shape[:2]
    dcontext = as_float("dcontext", dcontext, (steps, batch, e.shape[2]), q.dtype)
    weights = as_float("weights", weights, (steps, batch, k.shape[0]), q.dtype)
    return _core.attention_backward(dcontext, weights, *inputs, get_num_threads())


def _checked(query: Any, keys: Any, values: Any, lengths: Any, v: Any) -> tuple[Any, Any, Any, Any, Any]:
    array = as_array("query", query)
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"query must be float32 or float64, got dtype {array.dtype}")
    if array.ndim != 3 or array.shape[2] == 0:
        raise ValueError(f"query must have shape (T, B, K) with K at least 1, got {array.shape}")
    dtype, (_, batch, width) = array.dtype, array.shape
    k, e = as_array("keys", keys), as_array("values", values)
    if k.ndim != 3 or k.shape[1:] != (batch, width):
        raise ValueError(f"keys must have shape (S, {batch}, {width}), got {k.shape}")
    if e.ndim != 3 or e.shape[:2] != k.shape[:2] or e.shape[2] == 0:
        raise ValueError(f"values must have shape ({k.shape[0]}, {batch}, E) with E at least 1, got {e.shape}")
    return (
        np.ascontiguousarray(array),
        as_float("keys", k, k.shape, dtype),
        as_float("values", e, e.shape, dtype),
        read_lengths(lengths, k.shape[0], batch),
        None if v is None else as_float("v", v, (width,), dtype),
    )
