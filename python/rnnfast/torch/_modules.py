"""RNN, LSTM and GRU of torch.nn on the kernels of rnnfast."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from . import _cores, _routes
from ._base import Module, parts
from ._network import INTEGERS, Call, Given, Network

__all__ = ["GRU", "LSTM", "RNN", "Layer"]

Tensor = Any
_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


class Layer(Module, nn.RNNBase):
    """Base of RNN, LSTM and GRU: the constructor, parameters, attributes and errors of torch.nn's classes."""

    @property
    def _cell(self) -> str:  # type: ignore[override]
        return _CELLS.get(self.mode, "")

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

        Where input is on a GPU, the host reads lengths, resets and integers: those that are there are waited for.

        Returns:
            The outputs, (T, B, D*H), (B, T, D*H) or (T, D*H), or a PackedSequence; and the last state, of hx's shape.

        Raises:
            RuntimeError, ValueError, TypeError: as torch.nn's classes, whose checks come first.
            TypeError, ValueError: what is wrong with `lengths`, `reset` or integers.
        """
        weights = self._current_weights()
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        if lengths is None and reset is None and not dropout and not self.proj_size:
            made = self._quickly(input, hx, weights, "batch first" if self.batch_first else "sequences")
            if made is not None:
                return made[0], made[1:] if len(made) > 2 else made[1]
        call = self._call(input, hx, weights, (lengths, reset, dropout))
        if isinstance(call, str):
            return self._by_torch(input, hx, call, lengths is not None or reset is not None)
        made = _routes.run(call[0], self._packed(call[0].net.compute, weights))
        if call[1] is not None:
            made = call[1].leave(made)
        return self._result(input, made)

    def _call(
        self, input: Any, hx: Any, weights: list[Any], more: tuple[Any, Any, float]
    ) -> tuple[Call, _routes.Autocast | None] | str:
        """What to compute, or why torch must do it, be it that it will raise. `more`: lengths, reset, dropout."""
        lengths, reset, dropout = more
        is_packed = isinstance(input, PackedSequence)
        x = input.data if is_packed else input
        state = parts(hx, self.mode == "LSTM")
        if state is None or not isinstance(x, torch.Tensor):
            return "input or hx are no tensors"
        if self.proj_size:
            return "proj_size has no kernels yet"
        if dropout >= 1:
            return "dropout is 1"
        found = self._look(x, state, weights, "packed" if is_packed else "sequences", dropout)
        if isinstance(found, str):
            return found
        net, x, state, cast = found
        dtype = weights[0].dtype
        axes, shape = x.ndim, x.shape
        if x.dtype is dtype:
            if shape[-1:] != (self.input_size,) or axes not in (2, 3) or (is_packed and axes != 2):
                return f"input is of shape {tuple(shape)}"
        elif x.dtype in INTEGERS and not is_packed and axes in (1, 2):
            axes += 1  # as if each were a one-hot row
        else:
            return f"input is {x.dtype} of shape {tuple(shape)}"
        rows, given = net.num_layers * net.directions, Given()
        expected: tuple[Any, ...] = (rows, self.hidden_size)
        if is_packed:
            if input.batch_sizes.dtype is not torch.int64:
                return f"batch_sizes are {input.batch_sizes.dtype}"
            if lengths is not None or reset is not None:
                raise ValueError("lengths and reset need a padded tensor, got a PackedSequence")
            given, expected = Given(input.batch_sizes.contiguous()), (rows, int(input.batch_sizes[0]), self.hidden_size)
        elif axes == 3:
            if self.batch_first:
                net = net._replace(form="batch first")
            if shape[1 if self.batch_first else 0] == 0:
                return "there is no time step"
            expected = (rows, shape[0 if self.batch_first else 1], self.hidden_size)
        for s in state:
            if s.dtype is not dtype or s.shape != expected:
                return f"hx is {s.dtype} of shape {tuple(s.shape)} instead of {expected}"
        if is_packed and input.sorted_indices is not None:
            state = tuple(s.index_select(1, input.sorted_indices) for s in state)
        elif axes == 2 and not is_packed:
            if shape[0] == 0:
                return "there is no time step"
            x, state = x.unsqueeze(1), tuple(s.unsqueeze(1) for s in state)
        if lengths is not None or reset is not None:
            given = check_given(net, x, lengths, reset, axes == 2)
        if dropout:
            given = given._replace(seed=torch.randint(2**63 - 1, (), device="cpu"))
        return Call(net, given, x, state, tuple(weights)), cast

    def _fields(self, form: str, dropout: float, compute: str) -> tuple[Any, ...]:
        return (
            self._cell, self.input_size, self.hidden_size, self.num_layers, 2 if self.bidirectional else 1, self.bias,
            form, dropout, compute,
        )  # fmt: skip

    def _result(self, input: Any, made: tuple[Tensor, ...]) -> tuple[Any, Any]:
        y, *state = made
        if isinstance(input, PackedSequence):
            if input.unsorted_indices is not None:
                state = [s.index_select(1, input.unsorted_indices) for s in state]
            y = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        elif input.ndim == (2 if input.dtype.is_floating_point else 1):
            y, state = y.squeeze(1), [s.squeeze(1) for s in state]
        return y, tuple(state) if len(state) > 1 else state[0]

    def _by_torch(self, input: Any, hx: Any, reason: str, beyond: bool) -> tuple[Any, Any]:
        result: tuple[Any, Any] = super().forward(input, hx)  # raises where something is wrong
        if beyond:
            raise NotImplementedError(f"lengths and reset need rnnfast's kernels, which cannot be used: {reason}")
        _routes.tell(self, reason)
        return result

    def _current_weights(self) -> list[Any]:
        parameters = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:  # parametrized: an attribute computes it
            return [getattr(self, name, None) for name in self._flat_weights_names]


class RNN(Layer, nn.RNN):
    """torch.nn.RNN (tanh or relu) on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"


class LSTM(Layer, nn.LSTM):
    """torch.nn.LSTM on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"


class GRU(Layer, nn.GRU):
    """torch.nn.GRU on rnnfast's kernels; `compute_dtype="bfloat16"` multiplies bf16 pairs."""

    __module__ = "rnnfast.torch"

    _lowers = False


def check_given(net: Network, x: Tensor, lengths: Any, reset: Any, unbatched: bool) -> Given:
    """lengths as int32 (B,), reset as x's first two axes; in memory of the host, which reads them, if x is on a GPU."""
    batch = x.shape[0 if net.form == "batch first" else 1]
    if lengths is not None:
        lengths = _dense("lengths", lengths, x)
        if lengths.dtype not in INTEGERS:
            raise TypeError(f"lengths must be integers, got dtype {lengths.dtype}")
        if lengths.shape != (batch,):
            raise ValueError(f"lengths must have shape ({batch},), got {tuple(lengths.shape)}")
        # Far outside stays outside in int32, and is refused where the numbers are looked at.
        lengths = lengths.long().clamp(-(2**31), 2**31 - 1).to(torch.int32).contiguous()
    if reset is not None:
        reset = _dense("reset", reset, x)
        expected = x.shape[: 1 if unbatched else 2]
        if reset.dtype is not torch.bool:
            raise TypeError(f"reset must be bool, got dtype {reset.dtype}")
        if reset.shape != expected:
            raise ValueError(f"reset must have shape {tuple(expected)}, got {tuple(reset.shape)}")
        reset = reset.unsqueeze(1) if unbatched else reset
    return Given(lengths, reset)


def _dense(name: str, given: Any, x: Tensor) -> Tensor:
    """What is no tensor becomes one there, whatever the default device is; a tensor must be there or beside x."""
    place = torch.device("cpu") if _cores.on_gpu(x) else x.device
    if not isinstance(given, torch.Tensor):
        return torch.as_tensor(given, device=place)
    if given.device not in (place, x.device) or given.layout is not torch.strided:
        came = f"a tensor on the device {given.device} with the layout {str(given.layout).removeprefix('torch.')}"
        raise ValueError(f"{name} must be a dense tensor on the device {x.device}, got {came}")
    return given.to(place)
