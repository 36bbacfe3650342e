"""The network and its gradient as functions that torch.func can transform and that can be differentiated again.

Slower around the core than _autograd.py, which is for plain eager calls and comes here for double backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import _network, _plain
from ._network import Given, Network, Wants

__all__ = ["apply", "differentiable_backward"]

Tensor = Any
_GIVEN = len(Given._fields)


def apply(
    net: Network, given: Given, x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...], packed: Any
) -> tuple[Tensor, ...]:
    """(y, the last states); packed weights have no place in a function, which takes them as they are."""
    made: tuple[Tensor, ...] = _Forward.apply(net, *given, x, *state, *weights)
    return made[:-1]


def differentiable_backward(
    net: Network, given: Given, x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...], cache: Tensor,
    dy: Tensor | None, dstate: Sequence[Tensor | None], wants: Wants,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:  # fmt: skip
    """As _network.backward, with a graph."""
    _, batch = _network.steps_and_batch(net, x, given)
    shape, state_shape = _network.output_shapes(net, x, batch)
    like = weights[0]
    ends = [like.new_zeros(state_shape) if d is None else d for d in dstate]
    dy = like.new_zeros(shape) if dy is None else dy
    made = list(_Backward.apply(net, wants, *given, cache, dy, *ends, x, *state, *weights))
    return _network.split(made, wants, len(state))


def _count_states(net: Network, tensors: Sequence[Tensor]) -> int:
    """Of the states and weights together."""
    return len(tensors) - len(_network.weight_shapes(net))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(net: Network, lengths: Any, reset: Any, seed: Any, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        n = _count_states(net, tensors)
        return _network.forward(net, Given(lengths, reset, seed), x, tensors[:n], tensors[n:], True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.net = inputs[0]
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(output[-1], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *rest: Tensor) -> tuple[Any, ...]:
        net, (cache, *given, x) = ctx.net, ctx.saved_tensors[: 2 + _GIVEN]
        tensors = ctx.saved_tensors[2 + _GIVEN :]
        n, need = _count_states(net, tensors), ctx.needs_input_grad[1 + _GIVEN :]
        wants = Wants(need[0], tuple(need[1 : 1 + n]), any(need[1 + n :]))
        made = _Backward.apply(net, wants, *given, cache, dy, *rest[:-1], x, *tensors)
        dx, starts, grads = _network.split(list(made), wants, n)
        return None, *([None] * _GIVEN), dx, *starts, *grads

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], net: Network, *tensors: Tensor) -> Any:
        """Inputs that are mapped over join the batch; where anything else is, there is a call for each."""
        size, dims, n = info.batch_size, in_dims[1:], _count_states(net, tensors[_GIVEN + 1 :])
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
    def forward(net: Network, wants: Wants, *tensors: Any) -> tuple[Tensor, ...]:
        given, cache, dy, ends, x, state, weights = _Backward._parts(net, wants, tensors)
        # Another level may want the same gradients with other cotangents.
        dx, starts, grads = _network.backward(net, given, x, state, weights, cache, dy, ends, wants, True)
        return tuple(weights[0].new_empty(0) if made is None else made for made in (dx, *starts, *grads))

    @staticmethod
    def _parts(net: Network, wants: Wants, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        given, (cache, dy), rest = Given(*tensors[:_GIVEN]), tensors[_GIVEN : _GIVEN + 2], tensors[_GIVEN + 2 :]
        ends, n = net.states - (net.form == "step"), len(wants.state)
        x, state, weights = rest[ends], rest[ends + 1 : ends + 1 + n], rest[ends + 1 + n :]
        return given, cache, dy, rest[:ends], x, state, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.net, ctx.wants = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        """By PyTorch's own operations, whose gradients are differentiable as often as anyone likes."""
        net, wants = ctx.net, ctx.wants
        given, _, dy, ends, x, state, weights = _Backward._parts(net, wants, ctx.saved_tensors)
        found = _plain.second_backward(net, given, wants, dy, ends, x, state, weights, cotangents)
        return None, None, *([None] * _GIVEN), None, *found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """A call for each, because each has gradients of weights of its own."""
        net, wants, *tensors = args
        dims = list(in_dims)
        cotangents = range(_GIVEN + 1, _GIVEN + 2 + net.states - (net.form == "step"))
        if any(d is not None for i, d in enumerate(dims[2:]) if i not in cotangents):
            # The cache is of the batch that _Forward.vmap has made, or a copy.
            tensors[_GIVEN], dims[2 + _GIVEN] = torch.empty(0, dtype=torch.uint8, device="cpu"), None
        return _one_by_one(_Backward.apply, info, dims, (net, wants, *tensors))


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
