"""RNNCell, LSTMCell and GRUCell of torch.nn on the kernels of rnnfast: one step of one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import _routes
from ._base import Module, parts
from ._network import INTEGERS, Call, Given, Network

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell"]

Tensor = Any
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(Module, nn.RNNCellBase):
    """Base of RNNCell, LSTMCell and GRUCell: the constructor, parameters, attributes and errors of torch.nn's."""

    _lowers = False

    def forward(self, input: Any, hx: Any = None) -> Any:
        """One step: input (B, I) or (I,), or integers (B,), each a one-hot row of width I; hx (B, H) or (H,), for an
        LSTMCell a pair (h, c), None is zeros. Returns the state after it. Errors are those of torch.nn's class."""
        weights = self._current_weights()
        made = self._quickly(input, hx, weights, "step")
        if made is None:
            found = self._call(input, hx, weights)
            if isinstance(found, str):
                return self._by_torch(input, hx, found)
            net, x, state, cast = found
            made = _routes.run(Call(net, Given(), x, state, tuple(weights)), self._packed(net.compute, weights))
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
        if state is None or not isinstance(x, torch.Tensor):
            return "input or hx are no tensors"
        found = self._look(x, state, weights, "step")
        if isinstance(found, str):
            return found
        net, x, state, cast = found
        axes, shape, dtype = x.ndim, x.shape, weights[0].dtype
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
        names = _NAMES if self.bias else _NAMES[:2]
        parameters = self._parameters
        try:
            return [parameters[name] for name in names]
        except KeyError:  # parametrized: an attribute computes it
            return [getattr(self, name) for name in names]

    def _fields(self, form: str, dropout: float, compute: str) -> tuple[Any, ...]:
        return self._cell, self.input_size, self.hidden_size, 1, 1, self.bias, "step", dropout, compute


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
