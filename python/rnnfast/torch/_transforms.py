"""The network and its gradient as functions that torch.func can transform and that can be differentiated again.

Slower around the core than _autograd.py, which is for plain eager calls and comes here for double backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import _cores, _network, _plain
from ._network import Call, Given, Network

__all__ = ["apply", "differentiable_backward"]

Tensor = Any
_GIVEN = len(Given._fields)


def apply(call: Call, packed: Any) -> tuple[Tensor, ...]:
    """(y, the last states); packed weights have no place in a function, which takes them as they are."""
    made: tuple[Tensor, ...] = _Forward.apply(call.net, *call.given, *call.sources)
    return made[:-1]


def differentiable_backward(
    call: Call, cache: Tensor, slopes: Sequence[Tensor | None], wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """As _cores.backward, with a graph."""
    _, batch = _network.steps_and_batch(call.net, call.x, call.given)
    shape, state_shape = _network.output_shapes(call.net, call.x, batch)
    shapes = [shape, *[state_shape] * (len(slopes) - 1)]
    dense = [call.weights[0].new_zeros(s) if d is None else d for d, s in zip(slopes, shapes, strict=True)]
    made = _Backward.apply(call.net, tuple(wanted), *call.given, cache, *dense, *call.sources)
    return _as_wanted(made, wanted)


def _as_wanted(made: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    return tuple(d if want else None for d, want in zip(made, wanted, strict=True))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(net: Network, lengths: Any, reset: Any, seed: Any, *sources: Tensor) -> tuple[Tensor, ...]:
        return _cores.forward(Call.of(net, Given(lengths, reset, seed), sources), True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.net = inputs[0]
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(output[-1], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        cache, *rest = ctx.saved_tensors
        given, sources = rest[:_GIVEN], rest[_GIVEN:]
        wanted = ctx.needs_input_grad[1 + _GIVEN :]
        made = _Backward.apply(ctx.net, wanted, *given, cache, *slopes[:-1], *sources)
        return None, *([None] * _GIVEN), *_as_wanted(made, wanted)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], net: Network, *tensors: Tensor) -> Any:
        """Inputs that are mapped over join the batch; where anything else is, there is a call for each."""
        size, dims = info.batch_size, in_dims[1:]
        n = len(tensors) - _GIVEN - 1 - len(_network.weight_shapes(net))  # states
        inputs = range(_GIVEN, _GIVEN + 1 + n)
        alone = any(d is not None for i, d in enumerate(dims) if i not in inputs)
        if alone or net.dropout or net.form == "packed" or tensors[0] is not None or tensors[1] is not None:
            return _one_by_one(_Forward.apply, info, in_dims, (net, *tensors))
        of_x = 1 if net.form == "sequences" else 0  # the axis of sequences in x and y
        of_states = 0 if net.form == "step" else 1
        joined = list(tensors)
        for i in inputs:
            joined[i] = _join(tensors[i], dims[i], size, of_x if i == _GIVEN else of_states)
        *made, cache = _Forward.apply(net, *joined)
        axes = [of_x, *([of_states] * (len(made) - 1))]
        parted = [m.unflatten(axis, (size, m.shape[axis] // size)) for m, axis in zip(made, axes, strict=True)]
        return (*parted, cache), (*axes, None)


class _Backward(torch.autograd.Function):
    """The gradients of x, states and weights; an empty tensor stands for one that is not wanted."""

    @staticmethod
    def forward(net: Network, wanted: tuple[bool, ...], *tensors: Any) -> tuple[Tensor, ...]:
        call, cache, slopes = _Backward._parts(net, tensors)
        # Another level may want the same gradients with other cotangents.
        found = _cores.backward(call, cache, slopes, wanted, True)
        return tuple(call.weights[0].new_empty(0) if made is None else made for made in found)

    @staticmethod
    def _parts(net: Network, tensors: tuple[Any, ...]) -> tuple[Call, Tensor, tuple[Any, ...]]:
        """The call, its cache and the slopes."""
        end = _GIVEN + 2 + net.states - (net.form == "step")
        return Call.of(net, Given(*tensors[:_GIVEN]), tensors[end:]), tensors[_GIVEN], tensors[_GIVEN + 1 : end]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.net, ctx.wanted = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        """By PyTorch's own operations, whose gradients are differentiable as often as anyone likes."""
        call, _, slopes = _Backward._parts(ctx.net, ctx.saved_tensors)
        found = _plain.second_backward(call, ctx.wanted, slopes, cotangents)
        return None, None, *([None] * _GIVEN), None, *found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """A call for each, because each has gradients of weights of its own."""
        net, wanted, *tensors = args
        dims = list(in_dims)
        cotangents = range(_GIVEN + 1, _GIVEN + 2 + net.states - (net.form == "step"))
        if any(d is not None for i, d in enumerate(dims[2:]) if i not in cotangents):
            # The cache is of the batch that _Forward.vmap has made, or a copy.
            tensors[_GIVEN], dims[2 + _GIVEN] = torch.empty(0, dtype=torch.uint8, device="cpu"), None
        return _one_by_one(_Backward.apply, info, dims, (net, wanted, *tensors))


def _join(tensor: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    if dim is None:
        shape = (*tensor.shape[:axis], size, *tensor.shape[axis:])
        return tensor.unsqueeze(axis).expand(shape).flatten(axis, axis + 1)
    return tensor.movedim(dim, axis).flatten(axis, axis + 1)


def _one_by_one(function: Any, info: Any, in_dims: Sequence[Any], args: tuple[Any, ...]) -> Any:
    def pick(i: int) -> list[Any]:
        return [
            arg.select(dim, i) if isinstance(dim, int) and isinstance(arg, torch.Tensor) else arg
            for arg, dim in zip(args, in_dims, strict=True)
        ]

    made = [function(*pick(i)) for i in range(info.batch_size)]
    return tuple(torch.stack(parts) for parts in zip(*made, strict=True)), (0,) * len(made[0])
