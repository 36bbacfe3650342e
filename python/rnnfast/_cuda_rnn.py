"""Recurrent layers on a GPU: the checked arguments of layers.py turned into addresses for the compiled module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import cuda
from ._cuda_dense import DeviceTokens
from ._inputs import Sequences, as_array, read_lengths, read_reset, read_sequences
from .cuda import DeviceArray, Kind

if TYPE_CHECKING:
    from .random import CounterRng

__all__ = ["DeviceRnn"]


class DeviceCache:
    """What backward needs beside the compiled cache."""

    def __init__(self, core: Any, kind: Kind, tokens: bool) -> None:
        self.core, self.kind, self.tokens = core, kind, tokens

    @property
    def used(self) -> bool:
        return bool(self.core.used)

    @property
    def nbytes(self) -> int:
        return int(self.core.nbytes)


class DeviceRnn:
    """The device's counterpart of `_core.Rnn32`."""

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, layers: int, directions: int, bf16: bool,
        params: list[DeviceArray | None], grads: list[DeviceArray | None],
    ) -> None:  # fmt: skip
        self._core = cuda._cuda.Rnn(cell, input_size, hidden_size, layers, directions, bf16)
        self._params, self._grads = params, grads
        self._input, self._width, self._rows = input_size, directions * hidden_size, layers * directions
        self._hidden = hidden_size
        self._states = 2 if cell == "lstm" else 1
        self._device = cuda._cuda.current_device()

    def check_device(self) -> None:
        cuda.check_device("the layer", self._device)

    def read(self, x: Any, lengths: Any, reset: Any, batch_first: bool) -> tuple[Sequences, Kind]:
        """The batch, with x on the device, and the kind of array that it came as."""
        kind = cuda.kind_of(x)
        lengths, reset = cuda.to_host(lengths), cuda.to_host(reset)
        if isinstance(x, DeviceTokens) and x.ndim == 2:
            leading = (x.shape[0], x.shape[1])
            steps, batch = leading[::-1] if batch_first else leading
            if steps == 0:
                raise ValueError(f"x must have at least one time step, got shape {x.shape}")
            cuda.check_device("x", x.device)
            cuts = read_reset(reset, leading, False)
            return Sequences(x, True, steps, batch, False, leading, read_lengths(lengths, steps, batch), cuts), kind
        if cuda.dtype_kind(x) != "f":
            seq = read_sequences(cuda.to_host(x), lengths, reset, self._input, batch_first, np.dtype(np.float32))
            return seq._replace(x=cuda.to_device(seq.x)) if seq.tokens else seq, kind
        shape = tuple(int(n) for n in (x.shape if hasattr(x, "shape") else as_array("x", x).shape))
        if len(shape) not in (2, 3) or shape[-1] != self._input:
            axes = "(B, T" if batch_first else "(T, B"
            raise ValueError(f"x must have shape {axes}, {self._input}) or (T, {self._input}), got {shape}")
        unbatched = len(shape) == 2
        leading = (shape[0], 1 if unbatched else shape[1])
        steps, batch = leading[::-1] if batch_first and not unbatched else leading
        if steps == 0:
            raise ValueError(f"x must have at least one time step, got shape {shape}")
        ends, cuts = read_lengths(lengths, steps, batch), read_reset(reset, leading, unbatched)
        array = kind.floats("x", x).reshape(*leading, self._input)
        return Sequences(array, False, steps, batch, unbatched, leading, ends, cuts), kind

    def floats(self, name: str, value: Any, shape: tuple[int, ...], kind: Kind) -> DeviceArray | None:
        """A float array of this shape on the device."""
        if value is None:
            return None
        cuda.check_floating(name, value)
        got = tuple(int(n) for n in (value.shape if hasattr(value, "shape") else np.shape(value)))
        if got != shape:
            raise ValueError(f"{name} must have shape {shape}, got {got}")
        return kind.floats(name, value)

    def states(self, name: str, state: Any, shape: tuple[int, ...], kind: Kind) -> list[DeviceArray | None]:
        if state is None:
            return []
        parts = (state,) if self._states == 1 else state
        if not isinstance(parts, tuple | list) or len(parts) != self._states:
            raise TypeError(f"{name} must be a pair (h, c), got {type(state).__name__}")
        if self._states == 1 and isinstance(state, tuple | list):
            raise TypeError(f"{name} must be one array of shape {shape}, got a {type(state).__name__}")
        names = (name,) if self._states == 1 else (f"{name}[0]", f"{name}[1]")
        return [self.floats(n, part, shape, kind) for n, part in zip(names, parts, strict=True)]

    def forward(
        self, seq: Sequences, kind: Kind, form: str, state: list[DeviceArray | None], keep: bool,
        dropout: float, rng: CounterRng | None, params: list[DeviceArray | None] | None,
    ) -> tuple[DeviceArray, list[DeviceArray], DeviceCache | None]:  # fmt: skip
        """`form`: how rows lie in x and y, "sequences" (T, B), "batch first" or "packed" (as in a PackedSequence);
        `params`: others than the layer's own."""
        params = self._params if params is None else params
        y = kind.empty((*seq.leading, self._width))
        last = [kind.empty((self._rows, seq.batch, self._hidden)) for _ in range(self._states)]
        if seq.padded:
            cuda._cuda.fill(y.address, 0, y.nbytes, kind.stream)
        core = self._core.forward(
            _addresses(params),
            0 if seq.tokens else seq.x.address,
            seq.x.address if seq.tokens else 0,
            seq.steps,
            seq.batch,
            form,
            _addresses(state),
            seq.lengths,
            seq.reset,
            y.address,
            _addresses(last),
            keep,
            dropout if rng is not None else 0.0,
            rng.seed if rng is not None else 0,
            rng.step if rng is not None else 0,
            cuda.wished(),
            kind.stream,
            kind.allocate,
        )
        return y, last, DeviceCache(core, kind, seq.tokens) if keep else None

    def backward(
        self, cache: DeviceCache, kind: Kind, seq: Sequences, dy: DeviceArray | None, dstate: list[DeviceArray | None],
        want_dx: bool, want_dstate0: bool, keep: bool, accumulate: bool, grads: list[DeviceArray | None] | None = None,
    ) -> tuple[DeviceArray | None, list[DeviceArray]]:  # fmt: skip
        """`grads`: where those of the parameters go, if others than the layer's own."""
        grads = self._grads if grads is None else grads
        dx = kind.empty((*seq.leading, self._input)) if want_dx and not cache.tokens else None
        if dx is not None and seq.padded:
            cuda._cuda.fill(dx.address, 0, dx.nbytes, kind.stream)
        count = self._states if want_dstate0 else 0
        first = [kind.empty((self._rows, seq.batch, self._hidden)) for _ in range(count)]
        for grad in () if accumulate else grads:
            if grad is not None:
                cuda._cuda.fill(grad.address, 0, grad.nbytes, kind.stream)
        self._core.backward(
            cache.core,
            _addresses(grads),
            0 if dy is None else dy.address,
            _addresses(dstate),
            0 if dx is None else dx.address,
            _addresses(first),
            keep,
            cuda.wished(),
            kind.stream,
            kind.allocate,
        )
        return dx, first

    def pack(self, threads: int) -> list[DeviceArray | None]:
        """The parameters as they are now; copies need no threads."""
        return [None if p is None else p.copy() for p in self._params]


def _addresses(arrays: Any) -> list[int]:
    return [0 if a is None else a.address for a in arrays]
