"""RNN, LSTM and GRU of torch.nn on the kernels of rnnfast."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from . import _network, _routes
from ._frozen import Freezable
from ._network import INTEGERS, Given, Network

__all__ = ["GRU", "LSTM", "RNN", "Layer"]

Tensor = Any
_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


class Layer(Freezable, nn.RNNBase):
    """Base of RNN, LSTM and GRU: the constructor, parameters, attributes and errors of torch.nn's classes."""

    compute_dtype: str | None = None

    def __init__(self, *args: Any, compute_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if compute_dtype is not None:
            self.compute_dtype = check_compute_dtype(compute_dtype)

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, reset: Any = None) -> tuple[Any, Any]:
        """Whole sequences through all layers, as torch.nn has it, and beyond it lengths, resets and integers.

        Args:
            input: (T, B, I), (B, T, I) with batch_first, (T, I) for one sequence without a batch; or a PackedSequence;
                or integers of shape (T, B), (B, T) or (T,), each a one-hot row of width I.
            hx: initial state (L*D, B, H), or (L*D, H) without a batch; for an LSTM a pair (h, c). None is zeros.
            lengths: (B,) integers in 0 .. T, in any order: the outputs past a sequence's end are zero, its last state
                is that of its last step, and the reverse direction starts there. Input past the end is never looked at.
            reset: bool (T, B), (B, T) with batch_first: true cuts between this step and the one before it, in both
                directions, also for gradients; at the first step it ignores hx.

        Returns:
            The outputs, (T, B, D*H), (B, T, D*H) or (T, D*H), or a PackedSequence; and the last state, of hx's shape.

        Raises:
            RuntimeError, ValueError, TypeError: as torch.nn's classes, whose checks come first.
            TypeError, ValueError: what is wrong with `lengths`, `reset` or integers.
        """
        weights = self._current_weights()
        call = self._call(input, hx, weights, lengths, reset)
        if isinstance(call, str):
            return self._by_torch(input, hx, call, lengths, reset)
        net, given, x, state, cast = call
        made = _routes.run(net, given, x, state, weights, self._packed(net.compute, weights))
        if cast is not None:
            made = cast.leave(made)
        return self._result(input, made)

    def _call(
        self, input: Any, hx: Any, weights: list[Any], lengths: Any, reset: Any
    ) -> tuple[Network, Given, Tensor, tuple[Any, ...], _routes.Autocast | None] | str:
        """What to compute, or why torch must do it."""
        is_packed = isinstance(input, PackedSequence)
        x = input.data if is_packed else input
        pair = self.mode == "LSTM"
        if not isinstance(x, torch.Tensor) or any(w is None for w in weights):
            return "the input is no tensor, or a parameter is missing"
        if hx is None:
            state: tuple[Any, ...] = ()
        elif not pair:
            state = (hx,)
        elif isinstance(hx, (tuple, list)) and len(hx) == 2:
            state = tuple(hx)
        else:
            return "hx is no pair"
        if self.proj_size:
            return "proj_size has no kernels yet"
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        if dropout >= 1:
            return "dropout is 1"
        cast = _routes.autocast(x, weights, self.mode != "GRU")
        if isinstance(cast, str):
            return cast
        net = Network(
            _CELLS[self.mode], self.input_size, self.hidden_size, self.num_layers, 2 if self.bidirectional else 1,
            self.bias, "sequences", dropout, compute_of(self, weights[0].dtype, cast),
        )  # fmt: skip
        if not all(isinstance(s, torch.Tensor) for s in state):
            return "hx is no tensor"
        if (reason := _routes.unusable(x, state, weights, _network.weight_shapes(net))) is not None:
            return reason
        if cast is not None:
            x, state = cast.enter(x), tuple(map(cast.enter, state))
        tokens = x.dtype in INTEGERS and not is_packed
        shape, dtype = x.shape, weights[0].dtype
        if not tokens and (x.dtype is not dtype or x.ndim not in (2, 3) or shape[-1] != self.input_size):
            return f"the input is {x.dtype} of shape {tuple(shape)}"
        if any(s.dtype is not dtype for s in state):
            return "hx is of another dtype"
        rows = net.num_layers * net.directions
        given = Given()
        if is_packed:
            if lengths is not None or reset is not None:
                raise ValueError("lengths and reset need a padded tensor, got a PackedSequence")
            if x.ndim != 2:
                return "a PackedSequence of another shape"
            if input.sorted_indices is not None:
                state = tuple(s.index_select(1, input.sorted_indices) for s in state if s.ndim == 3)
            state_shape: tuple[Any, ...] = (rows, int(input.batch_sizes[0]), self.hidden_size)
            net, given = net._replace(form="packed"), Given(input.batch_sizes)
            if hx is not None and len(state) != net.states:
                return "hx is not 3-D"
        elif x.ndim == (1 if tokens else 2):
            state_shape = (rows, self.hidden_size)
        elif not tokens or x.ndim == 2:
            if self.batch_first:
                net = net._replace(form="batch first")
            state_shape = (rows, shape[0 if self.batch_first else 1], self.hidden_size)
        else:
            return f"the input is {x.dtype} of shape {tuple(shape)}"
        if any(s.shape != state_shape for s in state):
            return "hx is of another shape"
        if x.ndim == (1 if tokens else 2) and not is_packed:
            x, state = x.unsqueeze(1), tuple(s.unsqueeze(1) for s in state)
            reset = None if reset is None else one_reset(reset)
        if shape[1 if net.form == "batch first" else 0] == 0:
            return "there is no time step"
        if lengths is not None or reset is not None:
            given = Given(*check_given(net, x, lengths, reset))
        if dropout:
            given = given._replace(seed=torch.randint(2**63 - 1, ()))
        return net, given, x, state, cast

    def _result(self, input: Any, made: tuple[Tensor, ...]) -> tuple[Any, Any]:
        y, *state = made
        if isinstance(input, PackedSequence):
            if input.unsorted_indices is not None:
                state = [s.index_select(1, input.unsorted_indices) for s in state]
            y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        elif input.ndim == (2 if input.dtype.is_floating_point else 1):
            y, state = y.squeeze(1), [s.squeeze(1) for s in state]
        return y, tuple(state) if len(state) > 1 else state[0]

    def _by_torch(self, input: Any, hx: Any, reason: str, lengths: Any, reset: Any) -> tuple[Any, Any]:
        result: tuple[Any, Any] = super().forward(input, hx)  # raises where something is wrong
        if lengths is not None or reset is not None:
            raise NotImplementedError(f"lengths and reset need rnnfast's kernels, which cannot be used: {reason}")
        _routes.tell(self, reason)
        return result

    def _current_weights(self) -> list[Any]:
        parameters = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:  # parametrized: an attribute computes it
            return [getattr(self, name, None) for name in self._flat_weights_names]

    def _network(self) -> Network:
        """As freeze and its like need it."""
        dtype = self._current_weights()[0].dtype
        return Network(
            _CELLS[self.mode], self.input_size, self.hidden_size, self.num_layers, 2 if self.bidirectional else 1,
            self.bias, "sequences", 0.0, compute_of(self, dtype, None),
        )  # fmt: skip

    def extra_repr(self) -> str:
        own = "" if self.compute_dtype is None else f", compute_dtype={self.compute_dtype}"
        return str(super().extra_repr()) + own

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        state.pop("_frozen", None)
        return state


class RNN(Layer, nn.RNN):
    """torch.nn.RNN (tanh or relu) on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"


class LSTM(Layer, nn.LSTM):
    """torch.nn.LSTM on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"


class GRU(Layer, nn.GRU):
    """torch.nn.GRU on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"


def check_compute_dtype(compute_dtype: Any) -> str:
    if compute_dtype != "bfloat16":
        raise ValueError(f"compute_dtype must be None or 'bfloat16', got {compute_dtype!r}")
    return "bfloat16"


def compute_of(module: Any, dtype: Any, cast: _routes.Autocast | None) -> str:
    if cast is not None:
        return "bfloat16"
    if module.compute_dtype is not None:
        if dtype is not torch.float32 and dtype in _routes.DTYPES:
            raise ValueError(f"compute_dtype='bfloat16' needs parameters of float32, got {dtype}")
        return "bfloat16"
    return _routes.DTYPES.get(dtype, "")


def check_given(net: Network, x: Tensor, lengths: Any, reset: Any) -> tuple[Tensor | None, Tensor | None]:
    """(lengths int32 (B,), reset bool as x's first two axes)"""
    batch = x.shape[0 if net.form == "batch first" else 1]
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
        if lengths.dtype not in INTEGERS:
            raise TypeError(f"lengths must be integers, got dtype {lengths.dtype}")
        if lengths.shape != (batch,):
            raise ValueError(f"lengths must have shape ({batch},), got {tuple(lengths.shape)}")
        lengths = lengths.to(torch.int32).contiguous()
    if reset is not None:
        reset = torch.as_tensor(reset)
        if reset.dtype is not torch.bool:
            raise TypeError(f"reset must be bool, got dtype {reset.dtype}")
        if reset.shape != x.shape[:2]:
            raise ValueError(f"reset must have shape {tuple(x.shape[:2])}, got {tuple(reset.shape)}")
    return lengths, reset


def one_reset(reset: Any) -> Tensor:
    """Of a sequence without a batch."""
    reset = torch.as_tensor(reset)
    if reset.ndim != 1:
        raise ValueError(f"reset must have shape (T,), got {tuple(reset.shape)}")
    return reset.unsqueeze(1)
