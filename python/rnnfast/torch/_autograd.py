"""The network as a differentiable operation of eager PyTorch, with as little around the core as autograd allows.

torch.func, and a backward pass that is to be differentiated itself, go through _transforms.py; graphs and subclasses of
Tensor through the operators of _operators.py.
"""

from __future__ import annotations

from typing import Any

import torch

from . import _network, _plain
from ._network import Given, Network, Wants
from ._transforms import differentiable_backward

__all__ = ["apply", "keeps_graph"]

Tensor = Any


def keeps_graph() -> bool:
    """Whether the backward pass that runs now may be followed by another over the same graph (retain_graph=True)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def apply(
    net: Network, given: Given, x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...], packed: Any
) -> tuple[Tensor, ...]:
    """(y, the last states), of plain tensors on the CPU; a graph is recorded where one is wanted."""
    if torch.is_grad_enabled() and (
        x.requires_grad or any(s.requires_grad for s in state) or any(w.requires_grad for w in weights)
    ):
        made: tuple[Tensor, ...] = _Function.apply(net, given, x, *state, *weights)
        return made
    return _network.forward(net, given, x, state, weights, False, packed)


class _Function(torch.autograd.Function):
    """The cache is one of the saved tensors, so it is freed with the graph, and whoever replaces saved tensors
    (activation checkpointing, offloading) replaces it too."""

    @staticmethod
    def forward(ctx: Any, net: Network, given: Given, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        states = len(tensors) - len(_network.weight_shapes(net))
        *made, cache = _network.forward(net, given, x, tensors[:states], tensors[states:], True)
        ctx.save_for_backward(cache, *given, x, *tensors)
        ctx.set_materialize_grads(False)
        ctx.call = net, states
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate: Tensor | None) -> tuple[Any, ...]:
        net, states = ctx.call
        cache, lengths, reset, seed, x, *tensors = ctx.saved_tensors
        given = Given(lengths, reset, seed)
        state, weights = tuple(tensors[:states]), tuple(tensors[states:])
        need = ctx.needs_input_grad
        wants = Wants(need[2], tuple(need[3 : 3 + states]), any(need[3 + states :]))
        if any(d is not None and torch._C._functorch.is_legacy_batchedtensor(d) for d in (dy, *dstate)):
            # is_grads_batched, which jacobian(vectorize=True) uses: no numbers to point at, and no rule to be called.
            dx, starts, grads = _plain.backward(net, given, x, state, weights, dy, dstate, wants)
        elif torch.is_grad_enabled():  # the backward pass is to be differentiated
            dx, starts, grads = differentiable_backward(net, given, x, state, weights, cache, dy, dstate, wants)
        else:
            dx, starts, grads = _network.backward(
                net, given, x, state, weights, cache, dy, dstate, wants, keeps_graph()
            )
        return None, None, dx, *starts, *grads
