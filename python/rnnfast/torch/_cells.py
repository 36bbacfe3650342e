"""RNNCell, LSTMCell and GRUCell of torch.nn on the kernels of rnnfast: one step of one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import _routes
from ._frozen import Freezable
from ._modules import check_compute_dtype, compute_of, parts
from ._network import INTEGERS, Given, Network

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell"]

Tensor = Any
_GIVEN = Given()


class Cell(Freezable, nn.RNNCellBase):
    """Base of RNNCell, LSTMCell and GRUCell: the constructor, parameters, attributes and errors of torch.nn's."""

    compute_dtype: str | None = None
    _cell = ""
    _lowers = False  # what torch's autocast to bfloat16 gives

    def __init__(self, *args: Any, compute_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if compute_dtype is not None:
            self.compute_dtype = check_compute_dtype(compute_dtype)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """One step: input (B, I) or (I,), or integers (B,), each a one-hot row of width I; hx (B, H) or (H,), for an
        LSTMCell a pair (h, c), None is zeros. Returns the state after it. Errors are those of torch.nn's class."""
        weights = self._current_weights()
        call = self._call(input, hx, weights)
        if isinstance(call, str):
            return self._by_torch(input, hx, call)
        net, x, state, cast = call
        made = _routes.run(net, _GIVEN, x, state, weights, self._packed(net.compute, weights))
        if cast is not None:
            made = cast.leave(made)
        if x is not input and x.ndim > input.ndim:
            made = tuple(m.squeeze(0) for m in made)
        return made if len(made) > 1 else made[0]

    def _call(
        self, x: Any, hx: Any, weights: list[Any]
    ) -> tuple[Network, Tensor, tuple[Any, ...], _routes.Autocast | None] | str:
        """What to compute, or why torch must do it."""
        state = parts(hx, self._cell == "lstm")
        if state is None or not isinstance(x, torch.Tensor) or weights[0] is None:
            return "input or hx are no tensors, or a parameter is missing"
        if not self._cell:
            return "its nonlinearity is unknown"
        cast = _routes.autocast(x, weights, self._lowers)
        if isinstance(cast, str):
            return cast
        dtype = weights[0].dtype
        net = self._network(dtype, cast)
        reason = _routes.unusable(net, x, state, weights)
        if reason is not None:
            return reason
        if cast is not None:
            x, state = cast.enter(x), tuple(map(cast.enter, state))
        axes, shape = x.ndim, x.shape
        if x.dtype is dtype:
            if axes not in (1, 2) or shape[-1] != self.input_size:
                return f"input is of shape {tuple(shape)}"
        elif x.dtype in INTEGERS and axes == 1:
            axes = 2  # as if each were a one-hot row
        else:
            return f"input is {x.dtype} of shape {tuple(shape)}"
        expected = (self.hidden_size,) if axes == 1 else (shape[0], self.hidden_size)
        for s in state:
            if s.dtype is not dtype or s.shape != expected:
                return f"hx is {s.dtype} of shape {tuple(s.shape)} instead of {expected}"
        if axes == 1:
            x, state = x.unsqueeze(0), tuple(s.unsqueeze(0) for s in state)
        return net, x, state, cast

    def _by_torch(self, input: Any, hx: Any, reason: str) -> Any:
        result = super().forward(input, hx)  # raises where something is wrong
        _routes.tell(self, reason)
        return result

    def _current_weights(self) -> list[Any]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        parameters = self._parameters
        try:
            return [parameters[name] for name in names]
        except KeyError:  # parametrized: an attribute computes it
            return [getattr(self, name) for name in names]

    def _network(self, dtype: Any, cast: Any = None) -> Network:
        compute = compute_of(self, dtype, cast)
        return Network(self._cell, self.input_size, self.hidden_size, 1, 1, self.bias, "step", 0.0, compute)

    def extra_repr(self) -> str:
        own = "" if self.compute_dtype is None else f", compute_dtype={self.compute_dtype}"
        return str(super().extra_repr()) + own


class RNNCell(Cell, nn.RNNCell):
    """torch.nn.RNNCell (tanh or relu) on rnnfast's kernels."""

    __module__ = "rnnfast.torch"

    _lowers = True

    @property
    def _cell(self) -> str:  # type: ignore[override]
        return f"rnn_{self.nonlinearity}" if self.nonlinearity in ("tanh", "relu") else ""


class LSTMCell(Cell, nn.LSTMCell):
    """torch.nn.LSTMCell on rnnfast's kernels."""

    __module__ = "rnnfast.torch"

    _cell = "lstm"


class GRUCell(Cell, nn.GRUCell):
    """torch.nn.GRUCell on rnnfast's kernels."""

    __module__ = "rnnfast.torch"

    _cell = "gru"
