"""Losses and attention, with their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _cuda_dense, cuda
from ._attention import attention, attention_backward
from ._check import integer
from ._inputs import as_array, as_float, not_in_place
from ._numbers import real
from ._threads import get_num_threads

__all__ = ["attention", "attention_backward", "linear_cross_entropy", "softmax_cross_entropy"]

Array = NDArray[Any]

_REDUCTIONS = ("mean", "sum", "none")


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    weights: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, Array]:
    """Cross-entropy of softmax(logits) with the target classes, and its gradient.

    Args:
        logits: (..., V) float32 or float64 numbers (float16 is computed as float32).
        targets: (...) integers in 0 .. V-1.
        weights: (V,) weights of the classes, or None.
        ignore_index: targets of this value (which may be outside of 0 .. V-1) do not count.
        label_smoothing: in [0, 1): the loss is the mean of -log p over all classes by this part, the target's by the
            rest (Szegedy et al. 2016), as PyTorch has it; without class weights.
        reduction: "mean" divides by the sum of the weights of the targets that count, as PyTorch does (over nothing it
            is NaN, with a gradient of zeros); "sum"; "none": the loss is an array (...), the gradient that of the sum.

    Returns:
        The loss in nats, a float (or the array), and dlogits (..., V).

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    array = as_array("logits", logits)
    if array.dtype.kind != "f":
        raise TypeError(f"logits must be floating point, got dtype {array.dtype}")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., V) with V at least 1, got {array.shape}")
    dtype = np.dtype(np.float64 if array.dtype.itemsize >= 8 else np.float32)
    leading, classes = array.shape[:-1], int(array.shape[-1])
    flat = _targets(targets, leading, classes, ignore_index)
    loss, dlogits = _core.softmax_cross_entropy(
        np.ascontiguousarray(array, dtype).reshape(-1, classes),
        flat,
        _class_weights(weights, classes, dtype),
        _smoothing(label_smoothing, weights),
        _reduction(reduction),
        get_num_threads(),
    )
    return _shaped(loss, leading), dlogits.reshape(array.shape)


def linear_cross_entropy(
    x: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    *,
    dweight: Any = None,
    dbias: Any = None,
    weights: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, Any]:
    """softmax_cross_entropy(x @ weight.T + bias, targets) in one pass, the logits never all in memory at once.

    Args:
        x: (..., H) floating-point numbers, converted to the weight's dtype.
        weight: (V, H), float32 or float64.
        bias: (V,) or None.
        targets: (...) integers in 0 .. V-1.
        dweight: the gradient of weight is added into this array. Without it no gradient is computed.
        dbias: the same for bias, or None.
        weights: (V,) weights of the classes, or None.
        ignore_index: targets of this value do not count.
        label_smoothing: as for softmax_cross_entropy.
        reduction: "mean", "sum" or "none", as for softmax_cross_entropy.

    Returns:
        The loss, and the gradient of x; None without dweight.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it. After an error or Ctrl-C dweight and dbias
            are as they were.

    With rnnfast.cuda.DeviceArray for weight, bias, dweight and dbias it runs on that device, the gradient of x is one
    too, class weights must be None and label_smoothing 0.
    """
    smoothing = _smoothing(label_smoothing, weights)
    if isinstance(weight, cuda.DeviceArray):
        if smoothing:
            raise ValueError(f"label_smoothing must be 0 on a device, got {smoothing}")
        return _on_device(x, weight, bias, targets, dweight, dbias, weights, ignore_index, reduction)
    matrix = _parameter("weight", weight, (None, None))
    classes, width, dtype = int(matrix.shape[0]), int(matrix.shape[1]), matrix.dtype
    array = as_array("x", x)
    if array.ndim == 0 or array.shape[-1] != width:
        raise ValueError(f"x must have shape (..., {width}), got {array.shape}")
    array = as_float("x", array, array.shape, dtype)
    leading = array.shape[:-1]
    if dweight is None and dbias is not None:
        raise ValueError("dbias must be None where dweight is, got an array")
    loss, dx = _core.linear_cross_entropy(
        array.reshape(-1, width),
        matrix,
        None if bias is None else _parameter("bias", bias, (classes,), dtype),
        _targets(targets, leading, classes, ignore_index),
        _class_weights(weights, classes, dtype),
        smoothing,
        _reduction(reduction),
        None if dweight is None else _accumulator("dweight", dweight, (classes, width), dtype),
        None if dbias is None else _accumulator("dbias", dbias, (classes,), dtype),
        get_num_threads(),
    )
    return _shaped(loss, leading), None if dx is None else dx.reshape(array.shape)


def _on_device(
    x: Any, weight: Any, bias: Any, targets: Any, dweight: Any, dbias: Any, weights: Any, ignore_index: int | None,
    reduction: str,
) -> tuple[Any, Any]:  # fmt: skip
    for name, array in (("bias", bias), ("dweight", dweight), ("dbias", dbias)):
        if array is not None and not isinstance(array, cuda.DeviceArray):
            raise TypeError(f"{name} must be a DeviceArray as weight is, got {type(array).__name__}")
        if array is not None:
            _cuda_dense.own(name, array, weight.shape if name == "dweight" else weight.shape[:1])
    if weights is not None:
        raise ValueError("weights must be None on a device, got an array")
    classes, width = weight.shape
    array = _cuda_dense.floats("x", x, width)
    leading = array.shape[:-1]
    flat = _targets(targets, leading, classes, ignore_index)
    loss, dx = _cuda_dense.linear_cross_entropy(array, weight, bias, flat, dweight, dbias, _reduction(reduction))
    return _shaped(loss, leading), dx


def _shaped(loss: Any, leading: tuple[int, ...]) -> Any:
    return loss if isinstance(loss, float) else loss.reshape(leading)


def _targets(targets: Any, shape: tuple[int, ...], classes: int, ignore_index: int | None) -> NDArray[np.int32]:
    """Flat, with -1 where a target does not count."""
    array = np.array(as_array("targets", targets))  # a copy, since the caller's may change once it is checked
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"targets must be integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"targets must have shape {shape}, got {array.shape}")
    if ignore_index is not None:
        ignored = integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
        keep = array != ignored
        _check_range(array[keep], classes)
        array = np.where(keep, array, -1)
    else:
        _check_range(array, classes)
    return np.ascontiguousarray(array, np.int32).reshape(-1)


def _check_range(array: Array, classes: int) -> None:
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= classes:
            raise ValueError(f"targets must be in 0 .. {classes - 1}, got {low if low < 0 else high}")


def _class_weights(weights: Any, classes: int, dtype: np.dtype[Any]) -> Array | None:
    if weights is None:
        return None
    array = as_array("weights", weights)
    if array.shape != (classes,):
        raise ValueError(f"weights must have shape ({classes},), got {array.shape}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"weights must be finite and at least 0, got {array[~(np.isfinite(array) & (array >= 0))][0]}")
    return np.ascontiguousarray(array, dtype)


def _smoothing(label_smoothing: float, weights: Any) -> float:
    smoothing = real("label_smoothing", label_smoothing, "a number in [0, 1)", lambda v: 0 <= v < 1)
    if smoothing and weights is not None:
        raise ValueError(f"weights must be None where label_smoothing is not 0, got weights and {smoothing}")
    return smoothing


def _reduction(reduction: str) -> str:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def _parameter(name: str, value: Any, shape: tuple[int | None, ...], dtype: np.dtype[Any] | None = None) -> Array:
    """A C-contiguous float32 or float64 array; None in the shape stands for any size but 0."""
    array = as_array(name, value)
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name} must be float32 or float64, got dtype {array.dtype}")
    fits = array.ndim == len(shape) and 0 not in array.shape
    if not fits or any(want not in (None, n) for n, want in zip(array.shape, shape, strict=True)):
        wanted = "(V, H)" if None in shape else shape
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    return np.ascontiguousarray(array, dtype)


def _accumulator(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that is added to where it is, so it must be just as the kernels need it."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be an array of {dtype}, the dtype of weight, got {got}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not array.flags.carray:
        raise ValueError(f"{name} must be aligned, C-contiguous and writeable, got {not_in_place(array)}")
    return array
