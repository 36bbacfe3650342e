"""What the caller passed, as the kernels read it: every argument checked once, by name, with both values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Sequences",
    "as_array",
    "as_float",
    "as_rows",
    "as_tokens",
    "check_state",
    "not_in_place",
    "read_lengths",
    "read_reset",
    "read_sequences",
]

Array = NDArray[Any]


def as_array(name: str, value: Any) -> Array:
    """A NumPy array of numbers, without a copy where that can be: arrays, DLPack objects in CPU memory, lists."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask (its filled() is one), got a masked array")
    if isinstance(value, np.ndarray):
        array = value
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array_interface__"):
        try:
            array = np.from_dlpack(value.detach() if hasattr(value, "detach") else value)
        except (BufferError, RuntimeError, TypeError) as e:
            raise TypeError(f"{name} must be an array in CPU memory, got {type(value).__name__}: {e}") from e
    else:
        try:
            array = np.asarray(value)
        except ValueError as e:
            raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}: {e}") from e
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be floating point or integers, got dtype {array.dtype}")
    return array


def as_float(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A C-contiguous array of the given shape in the layer's dtype."""
    array = as_array(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must be floating point, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array, dtype)


def as_rows(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of the given shape in the layer's dtype whose last axis is contiguous; the others may have any strides,
    so that a broadcast or transposed array is not copied."""
    array = as_array(name, value)
    size = dtype.itemsize
    fits = array.dtype == dtype and array.shape == shape and array.flags.aligned
    if fits and array.strides[-1] == size and all(stride % size == 0 for stride in array.strides):
        return array
    return as_float(name, array, shape, dtype)


def not_in_place(array: Array) -> str:
    """What keeps an array from being written to where it is: why its flags are not those of a C array."""
    if not array.flags.writeable:
        return "a read-only array"
    return f"strides {array.strides}" if not array.flags.c_contiguous else "an array at an odd address"


def as_tokens(name: str, array: Array, vocabulary: int) -> NDArray[np.int32]:
    """Integers in 0 .. vocabulary - 1, C-contiguous: a copy, since the caller's may change once they are checked."""
    array = np.array(array, order="C")
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= vocabulary:
            raise ValueError(f"{name} must hold tokens in 0 .. {vocabulary - 1}, got {low if low < 0 else high}")
    return np.ascontiguousarray(array, np.int32)


class Sequences(NamedTuple):
    """A batch, always with its batch axis."""

    x: Any  # (T, B, I) of the layer's dtype or (T, B) int32; (B, T, ...) with batch_first; on the layer's device
    tokens: bool
    steps: int
    batch: int
    unbatched: bool
    leading: tuple[int, ...]  # the first two axes of x; the one of packed rows
    lengths: NDArray[np.int32] | None
    reset: NDArray[np.bool_] | None

    @property
    def padded(self) -> bool:
        """Whether there may be rows past a sequence's end."""
        return self.lengths is not None and len(self.leading) == 2


def read_sequences(x: Any, lengths: Any, reset: Any, width: int, batch_first: bool, dtype: np.dtype[Any]) -> Sequences:
    array = as_array("x", x)
    tokens = array.dtype.kind in "iu"
    axes = "(B, T" if batch_first else "(T, B"
    if tokens and array.ndim not in (1, 2):
        raise ValueError(f"x of integers must have shape {axes}) or (T,), got {array.shape} of dtype {array.dtype}")
    if not tokens and (array.ndim not in (2, 3) or array.shape[-1] != width):
        raise ValueError(f"x must have shape {axes}, {width}) or (T, {width}), got {array.shape}")
    unbatched = array.ndim == (1 if tokens else 2)
    if unbatched:
        array = array[:, None]
    batch_first = batch_first and not unbatched
    leading = (int(array.shape[0]), int(array.shape[1]))
    steps, batch = leading[::-1] if batch_first else leading
    if steps == 0:
        raise ValueError(f"x must have at least one time step, got shape {np.shape(x)}")
    ends = read_lengths(lengths, steps, batch)
    if tokens:
        if ends is not None:  # what lies past a sequence's end may be anything
            ended = np.arange(steps)[:, None] >= ends
            array = np.where(ended.T if batch_first else ended, 0, array)
        array = as_tokens("x", array, width)
    else:
        array = np.ascontiguousarray(array, dtype)
    return Sequences(array, tokens, steps, batch, unbatched, leading, ends, read_reset(reset, leading, unbatched))


def read_lengths(lengths: Any, steps: int, batch: int) -> NDArray[np.int32] | None:
    if lengths is None:
        return None
    array = np.array(as_array("lengths", lengths))  # a copy: see as_tokens
    if array.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, got dtype {array.dtype}")
    if array.shape != (batch,):
        raise ValueError(f"lengths must have shape ({batch},), got {array.shape}")
    if array.size and (array.min() < 0 or array.max() > steps):
        wrong = int(array.min()) if array.min() < 0 else int(array.max())
        raise ValueError(f"lengths must be in 0 .. {steps}, got {wrong}")
    return np.ascontiguousarray(array, np.int32)


def read_reset(reset: Any, leading: tuple[int, int], unbatched: bool) -> NDArray[np.bool_] | None:
    if reset is None:
        return None
    array = np.asarray(reset)
    if array.dtype != np.bool_:
        raise TypeError(f"reset must be bool, got dtype {array.dtype}")
    shape = leading[:1] if unbatched else leading
    if array.shape != shape:
        raise ValueError(f"reset must have shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array.reshape(leading))


def check_state(name: str, state: Any, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Array | None]:
    """The state's arrays with a batch axis, or nothing where there is no state."""
    if state is None:
        return []
    parts: tuple[Any, ...] = (state,)
    if count > 1:
        if not isinstance(state, tuple | list) or len(state) != count:
            got = f"{len(state)} items" if isinstance(state, tuple | list) else type(state).__name__
            raise TypeError(f"{name} must be a pair (h, c), got {got}")
        parts = tuple(state)
    elif isinstance(state, tuple | list):
        raise TypeError(f"{name} must be one array of shape {shape}, got a {type(state).__name__}")
    names = (name,) if count == 1 else (f"{name}[0]", f"{name}[1]")
    arrays = (None if p is None else as_float(n, p, shape, dtype) for n, p in zip(names, parts, strict=True))
    return [a if a is None or a.ndim == 3 else a[:, None] for a in arrays]
