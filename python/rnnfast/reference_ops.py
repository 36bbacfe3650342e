"""The reference, second part: random numbers by counter, sampling, the loss and the optimisers, in plain float64 NumPy.

Like ``reference`` (whose names include all of these), it is slow on purpose, meant to be read, and knows nothing of the
compiled core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


# --- Random numbers by counter --------------------------------------------------------------------------------------


def philox4x32(counter: Sequence[Any], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit counter words, numbers or arrays, to four random 32-bit words."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & mask, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def _key(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def dropout_mask(p: float, seed: int, step: int, stream: int, shape: tuple[int, int, int]) -> Array:
    """(T, B, H) factors, 0 with probability p, else 1 / (1 - p).

    The factor of (t, row, unit) depends on the seed, the absolute time step + t, the stream, the row and the unit, and
    on nothing else: not on T, B, the chunk, or the order in which rows are computed. The stream of a layer's output in
    one direction is 2 * layer + direction; that of a ``Dropout`` module begins at 0x8000.
    """
    T, B, H = shape
    if p >= 1:
        return np.zeros(shape)
    steps = np.array([step + t for t in range(T)], np.uint64)[:, None, None]
    rows, units = np.arange(B)[None, :, None], np.arange(H)[None, None, :]
    high = (stream << 16) | ((steps >> np.uint64(32)) & np.uint64(0xFFFF))
    words = philox4x32((units // 4, rows, steps & np.uint64(0xFFFFFFFF), high), _key(seed))
    word = np.choose(np.broadcast_to(units % 4, shape), words)
    return np.where(word >= math.floor(p * 2**32 + 0.5), 1 / (1 - p), 0.0)


def layer_dropout_masks(
    p: float, seed: int, step: int, num_layers: int, num_directions: int, shape: tuple[int, int, int]
) -> list[Array]:
    """The masks (T, B, D*H) of a network, ``shape`` = (T, B, H): one for each layer but the last."""
    return [
        np.concatenate([dropout_mask(p, seed, step, 2 * layer + d, shape) for d in range(num_directions)], axis=-1)
        for layer in range(num_layers - 1)
    ]


def sampling_uniform(seed: int, sample: int, position: int) -> float:
    """The number in (0, 1) that picks the token at ``position`` of one sample."""
    word = philox4x32((position & 0xFFFFFFFF, position >> 32, sample, 0x53414D50), _key(seed))[0]
    return (float(word) + 0.5) / 2**32


# --- Sampling -------------------------------------------------------------------------------------------------------


def sampling_probabilities(
    logits: Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Array:
    """(V) logits to the probabilities that are sampled from: temperature, then the k likeliest, then the nucleus of p.

    The nucleus is the fewest likeliest tokens whose probabilities reach top_p, at least one. Ties go to the lower id.
    Temperature 0 puts everything on the likeliest token.
    """
    logits = np.asarray(logits, np.float64)
    order = np.argsort(-logits, kind="stable")
    probs = np.zeros_like(logits)
    if temperature == 0:
        probs[order[0]] = 1
        return probs
    order = order[: len(logits) if top_k is None else top_k]
    e = np.exp((logits[order] - logits[order[0]]) / temperature)
    e /= e.sum()
    if top_p is not None:
        e = e[: int(np.searchsorted(np.cumsum(e), top_p)) + 1]
    probs[order[: len(e)]] = e / e.sum()
    return probs


def sample_token(probs: Array, u: float) -> int:
    """The first token, in order of id, whose cumulative probability exceeds u times the total."""
    cumulative = np.cumsum(probs)
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))


def one_hot(tokens: Array, width: int, dtype: Any = np.float64) -> Array:
    """(...) integers to (..., width) rows of the identity matrix: what integer input means."""
    return np.asarray(np.eye(width, dtype=dtype)[tokens])


# --- Loss -----------------------------------------------------------------------------------------------------------


def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weights: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, Array]:
    """-w[y] log softmax(logits)[y] over (..., V) logits and (...) targets, and its gradient by the logits.

    ``weights`` (V) weigh the classes; "mean" divides by the sum of the weights of the targets that count, as torch does
    (so the mean over nothing is NaN, with a gradient of 0); with "none" the gradient is that of the sum. With
    ``label_smoothing`` (without weights) a target is that part spread over all classes alike.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    keep = np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index
    safe = np.where(keep, targets, 0)
    w = np.where(keep, 1.0 if weights is None else np.asarray(weights, np.float64)[safe], 0.0)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    classes = logits.shape[-1]
    q = (1 - label_smoothing) * one_hot(safe, classes) + label_smoothing / classes
    loss = -w * np.where(q > 0, q * np.where(q > 0, log_p, 0), 0).sum(axis=-1)
    dlogits = w[..., None] * (np.exp(log_p) - q)
    if reduction == "none":
        return loss, dlogits
    if reduction == "sum":
        return float(loss.sum()), dlogits
    total = w.sum()
    return (float(loss.sum() / total), dlogits / total) if total > 0 else (float("nan"), dlogits)


# --- Attention ------------------------------------------------------------------------------------------------------


def attention(query: Array, keys: Array, values: Array, lengths: Any = None, v: Any = None) -> tuple[Array, Array]:
    """(context (T, B, E), weights (T, B, S)) of query (T, B, K), keys (S, B, K) and values (S, B, E).

    Scores are query . key, or with ``v`` (K) v . tanh(query + key); weights are their softmax over the first
    ``lengths[b]`` keys, all zero where there is none.
    """
    T, B, S = len(query), query.shape[1], len(keys)
    context, weights = np.zeros((T, B, values.shape[-1])), np.zeros((T, B, S))
    for b in range(B):
        n = S if lengths is None else int(lengths[b])
        for t in range(T if n else 0):
            weights[t, b, :n] = softmax(_scores(query[t, b], keys[:n, b], v))
            context[t, b] = weights[t, b, :n] @ values[:n, b]
    return context, weights


def attention_backward(
    dcontext: Array, query: Array, keys: Array, values: Array, lengths: Any = None, v: Any = None
) -> tuple[Array, Array, Array, Array | None]:
    """The gradients of query, keys, values and v (None without one)."""
    _, weights = attention(query, keys, values, lengths, v)
    dquery, dkeys, dvalues = (np.zeros(np.shape(a)) for a in (query, keys, values))
    dv = None if v is None else np.zeros(np.shape(v))
    for b in range(query.shape[1]):
        n = len(keys) if lengths is None else int(lengths[b])
        for t in range(len(query)):
            w, k = weights[t, b, :n], keys[:n, b]
            dw = values[:n, b] @ dcontext[t, b]
            ds = w * (dw - w @ dw)
            dvalues[:n, b] += np.outer(w, dcontext[t, b])
            if v is None:
                dquery[t, b] = ds @ k
                dkeys[:n, b] += np.outer(ds, query[t, b])
            else:
                y = np.tanh(query[t, b] + k)
                d = ds[:, None] * np.asarray(v) * (1 - y * y)
                dquery[t, b] = d.sum(axis=0)
                dkeys[:n, b] += d
                dv += ds @ y
    return dquery, dkeys, dvalues, dv


def softmax(x: Array) -> Array:
    """Over a vector."""
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def _scores(query: Array, keys: Array, v: Any) -> Array:
    return np.asarray(keys @ query if v is None else np.tanh(query + keys) @ v)


# --- Optimisers: each turns (param, grad, its own state of the parameter, step 1, 2, ...) into the new parameter ------


def sgd(
    param: Array,
    grad: Array,
    state: dict[str, Array],
    step: int,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Array:
    grad = grad + weight_decay * param
    if momentum:
        buffer = grad if step == 1 else momentum * state["momentum_buffer"] + grad
        state["momentum_buffer"] = buffer
        grad = grad + momentum * buffer if nesterov else buffer
    return param - lr * grad


def rmsprop(
    param: Array,
    grad: Array,
    state: dict[str, Array],
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> Array:
    grad = grad + weight_decay * param
    state["square_avg"] = alpha * state.get("square_avg", np.zeros_like(param)) + (1 - alpha) * grad * grad
    update = grad / (np.sqrt(state["square_avg"]) + eps)
    if momentum:
        update = momentum * state.get("momentum_buffer", np.zeros_like(param)) + update
        state["momentum_buffer"] = update
    return param - lr * update


def adam(
    param: Array,
    grad: Array,
    state: dict[str, Array],
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Array:
    grad = grad + weight_decay * param
    zero = np.zeros_like(param)
    m = betas[0] * state.get("exp_avg", zero) + (1 - betas[0]) * grad
    v = betas[1] * state.get("exp_avg_sq", zero) + (1 - betas[1]) * grad * grad
    state["exp_avg"], state["exp_avg_sq"] = m, v
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return np.asarray(param - lr * m_hat / (np.sqrt(v_hat) + eps))


def adamw(
    param: Array,
    grad: Array,
    state: dict[str, Array],
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Array:
    """Adam with the decay applied to the parameter itself, not to its gradient."""
    return adam(param * (1 - lr * weight_decay), grad, state, step, lr, betas, eps)


OPTIMISERS = {"SGD": sgd, "RMSprop": rmsprop, "Adam": adam, "AdamW": adamw}


def clip_grad_norm(grads: Sequence[Array], max_norm: float) -> tuple[float, list[Array]]:
    """The norm of all gradients together, and the gradients scaled down where it exceeds max_norm, as torch does."""
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads))
    scale = min(1.0, max_norm / (norm + 1e-6))
    return norm, [g * scale for g in grads]


def clip_grad_value(grads: Sequence[Array], clip_value: float) -> list[Array]:
    return [np.clip(g, -clip_value, clip_value) for g in grads]
