"""Linear, Embedding, Dropout, the loss and the optimisers on a GPU, over cuda.DeviceArray, on the default stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import cuda
from .cuda import DeviceArray

__all__ = [
    "DeviceTokens",
    "add_linear_gradients",
    "clip_values",
    "drop",
    "embedding_backward",
    "embedding_forward",
    "floats",
    "linear_backward",
    "linear_cross_entropy",
    "linear_forward",
    "norm",
    "optimiser_step",
    "own",
    "scale_values",
    "tokens_on_device",
]

Array = NDArray[Any]


class DeviceTokens(DeviceArray):
    """int32 tokens that are known to be in the vocabulary, so nobody has to wait to look at them."""


def tokens_on_device(tokens: Array) -> DeviceTokens:
    """Checked tokens, copied to the device."""
    made = DeviceTokens(tokens.shape, np.int32)
    made[...] = tokens
    return made


def floats(name: str, value: Any, width: int | None = None, shape: tuple[int, ...] | None = None) -> DeviceArray:
    """Numbers on the device, (..., width) or of the given shape; host arrays are copied there."""
    if not isinstance(value, DeviceArray) and type(cuda.kind_of(value)) is not cuda.Kind:
        raise TypeError(f"{name} must be a rnnfast.cuda.DeviceArray or a host array, got {type(value).__name__}")
    cuda.check_floating(name, value)
    got = tuple(np.shape(value)) if not isinstance(value, DeviceArray) else value.shape
    if (width is not None and (not got or got[-1] != width)) or (shape is not None and got != shape):
        raise ValueError(f"{name} must have shape {shape or f'(..., {width})'}, got {got}")
    return cuda.Kind().floats(name, value)


def own(name: str, value: Any, shape: tuple[int | None, ...]) -> DeviceArray:
    """A parameter or gradient of this shape, in which None may be any size: the caller may have replaced it, and the
    kernels take it as it is."""
    if not isinstance(value, DeviceArray) or value.dtype != np.float32:
        got = f"one of {value.dtype}" if isinstance(value, DeviceArray) else type(value).__name__
        raise TypeError(f"{name} must be a float32 rnnfast.cuda.DeviceArray, got {got}")
    if len(value.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    cuda.check_device(name, value.device)
    return value


def linear_forward(x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None) -> DeviceArray:
    """x (..., in) W^T + b."""
    out, width = own("weight", weight, (None, x.shape[-1])).shape
    bias = None if bias is None else own("bias", bias, (out,))
    y = DeviceArray((*x.shape[:-1], out))
    rows = x.size // width
    cuda._cuda.matmul(x.address, False, weight.address, True, y.address, rows, out, width, 0.0)
    if bias is not None:
        cuda._cuda.add_bias(bias.address, rows, out, y.address)
    return y


def linear_backward(dy: DeviceArray, weight: DeviceArray) -> DeviceArray:
    """The gradient of x."""
    out, width = weight.shape
    dx = DeviceArray((*dy.shape[:-1], width))
    cuda._cuda.matmul(dy.address, False, weight.address, False, dx.address, dy.size // out, width, out, 0.0)
    return dx


def add_linear_gradients(dy: DeviceArray, x: DeviceArray, dweight: DeviceArray, dbias: DeviceArray | None) -> None:
    out, width = own("the gradient of weight", dweight, (dy.shape[-1], x.shape[-1])).shape
    dbias = None if dbias is None else own("the gradient of bias", dbias, (out,))
    rows = x.size // width
    if dbias is not None:  # first, because it takes memory, and there may be none
        cuda._cuda.add_column_sums(dy.address, rows, out, dbias.address)
    cuda._cuda.matmul(dy.address, True, x.address, False, dweight.address, out, width, rows, 1.0)


def embedding_forward(table: DeviceArray, tokens: DeviceTokens) -> DeviceArray:
    y = DeviceArray((*tokens.shape, table.shape[1]))
    cuda._cuda.gather_rows(table.address, tokens.address, tokens.size, table.shape[1], y.address)
    return y


def embedding_backward(dy: DeviceArray, tokens: DeviceTokens, dtable: DeviceArray) -> None:
    rows, width = dtable.shape
    cuda._cuda.add_token_sums(dy.address, tokens.address, tokens.size, rows, width, dtable.address)


def drop(x: DeviceArray, p: float, seed: int, step: int, stream: int) -> DeviceArray:
    """The elements of x (T, ..., n) that dropout keeps, as Dropout has it on the CPU."""
    shape = x.shape if x.ndim > 1 else (1, *x.shape)
    cuda.check_device("x", x.device)
    y = DeviceArray(x.shape)
    if p == 1:  # what is kept would be divided by 0
        y.fill(0)
        return y
    rows = int(np.prod(shape[1:-1], dtype=np.int64))
    cuda._cuda.dropout(x.address, y.address, shape[0], rows, shape[-1], p, seed, step % 2**64, stream)
    return y


def linear_cross_entropy(
    x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, targets: NDArray[np.int32],
    dweight: DeviceArray | None, dbias: DeviceArray | None, reduction: str,
) -> tuple[Any, DeviceArray | None]:  # fmt: skip
    """ops.linear_cross_entropy without class weights: targets are flat, -1 where one does not count. It waits for the
    loss."""
    logits = linear_forward(x, weight, bias)
    rows, classes = targets.size, weight.shape[0]
    counted = int((targets >= 0).sum())
    scale = 1.0 / counted if reduction == "mean" and counted else 1.0
    on_device, parts = tokens_on_device(targets), DeviceArray((2, rows))
    cuda._cuda.cross_entropy(
        logits.address, on_device.address, rows, classes, dweight is not None, scale, parts.address,
        parts.address + 4 * rows,
    )  # fmt: skip
    dx = None
    if dweight is not None:
        dx = linear_backward(logits, weight)
        add_linear_gradients(logits, x, dweight, dbias)
    denominator, target_logit = parts.numpy().astype(np.float64)
    losses = np.log(denominator) - target_logit
    if reduction == "none":
        return losses.astype(np.float32), dx
    total = math.fsum(losses)
    return (total if reduction == "sum" else total / counted if counted else math.nan), dx


class _Update(NamedTuple):
    param: DeviceArray
    grad: DeviceArray
    states: list[DeviceArray]


def optimiser_step(kind: str, hyper: dict[str, Any], step: int, grad_scale: float, arrays: Sequence[Any]) -> None:
    """One update; arrays of (parameter, gradient, what the optimiser keeps of it)."""
    rows = []
    for entry in arrays:
        update = _Update(*entry)
        for array in (update.param, update.grad, *update.states):
            cuda.check_device("what an optimiser changes", array.device)
        kept = [state.address for state in update.states] + [0, 0]
        rows.append([update.param.address, update.grad.address, *kept[:2], update.param.size])
    cuda._cuda.optimiser_step(kind=kind, step=step, grad_scale=grad_scale, arrays=rows, **hyper)


def _addressed(arrays: Sequence[DeviceArray]) -> list[list[int]]:
    for array in arrays:
        cuda.check_device("a gradient", array.device)
    return [[array.address, array.size] for array in arrays]


def norm(arrays: Sequence[DeviceArray]) -> float:
    """The sum of squares; waits for it."""
    return float(cuda._cuda.sum_of_squares(_addressed(arrays)))


def scale_values(arrays: Sequence[DeviceArray], factor: float) -> None:
    cuda._cuda.scale_values(_addressed(arrays), factor)


def clip_values(arrays: Sequence[DeviceArray], limit: float) -> None:
    cuda._cuda.clip_values(_addressed(arrays), limit)
