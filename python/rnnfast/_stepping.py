"""Streams: a layer one step at a time, with packed weights and its state inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._check import integer
from ._inputs import as_array, as_float, as_tokens, check_state, not_in_place
from ._threads import get_num_threads

if TYPE_CHECKING:
    from .layers import Recurrent

__all__ = ["Stream"]

Array = NDArray[Any]


class Stream:
    """Inference one step at a time: `layer.stream(batch_size)` makes one.

    It holds the layer's weights as they were then, and the state, which starts at zero. The outputs have the same bits
    as those of the layer over the whole sequence.
    """

    def __init__(self, layer: Recurrent, batch_size: int) -> None:
        self._layer, self._batch = layer, batch_size
        self._stepper = layer._core.stepper(layer.pack(), batch_size, get_num_threads(), in_loops=False)
        self._step = self._stepper.step

    def step(self, x: Any, out: Array | None = None) -> Array:
        """One step: x (B, I) -> y (B, H); where B = 1 also (I,) -> (H,). Integers (B,) are one-hot rows.

        With `out` (C-contiguous, of the layer's dtype, y's shape) y goes there, and no array is made.
        """
        y: Array | None = self._step(x, out)  # None: something has to be converted, or is wrong
        return self._step_any(x, out) if y is None else y

    def _step_any(self, x: Any, out: Array | None) -> Array:
        layer, batch = self._layer, self._batch
        array = as_array("x", x)
        if array.dtype.kind in "iu":
            if array.shape != (batch,):
                raise ValueError(f"x of integers must have shape ({batch},), got {array.shape}")
            array = as_tokens("x", array, layer.input_size)
            shape: tuple[int, ...] = (batch, layer.hidden_size)
        else:
            single = array.ndim == 1 and batch == 1
            width = layer.input_size
            array = as_float("x", array, (width,) if single else (batch, width), layer.dtype)
            shape = (layer.hidden_size,) if single else (batch, layer.hidden_size)
        if out is not None:
            if not isinstance(out, np.ndarray) or out.dtype != layer.dtype or out.shape != shape:
                got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
                raise ValueError(f"out must be an array of {layer.dtype} with shape {shape}, got {got}")
            if not out.flags.carray:
                raise ValueError(f"out must be aligned, C-contiguous and writeable, got {not_in_place(out)}")
        y: Array | None = self._step(array, out)
        assert y is not None
        return y

    @property
    def state(self) -> Any:
        """A copy of the state: (L, B, H), for an LSTM a pair (h, c). It can be set; None sets zeros."""
        parts = tuple(self._stepper.get_state(k) for k in range(self._layer._states))
        return parts if len(parts) > 1 else parts[0]

    @state.setter
    def state(self, state: Any) -> None:
        layer = self._layer
        shape = (layer.num_layers, self._batch, layer.hidden_size)
        parts = check_state("state", state, layer._states, shape, layer.dtype) or [None] * layer._states
        for k, part in enumerate(parts):
            self._stepper.set_state(k, part)

    def reset(self, rows: Any = None) -> None:
        """Set the state to zero, of all rows or of those given (indices, or a mask of B booleans)."""
        if rows is None:
            self.state = None
            return
        array = np.asarray(rows)
        if array.dtype == np.bool_:
            if array.shape != (self._batch,):
                raise ValueError(f"rows as a mask must have shape ({self._batch},), got {array.shape}")
            array = np.flatnonzero(array)
        indices = [integer("rows", row, 0) for row in np.atleast_1d(array)]
        if any(row >= self._batch for row in indices):
            raise ValueError(f"rows must be below the batch size {self._batch}, got {max(indices)}")
        for row in indices:
            self._stepper.reset_row(row)
