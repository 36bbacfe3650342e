"""The network as a differentiable operation of eager PyTorch, with as little around the core as autograd allows.

torch.func, and a backward pass that is to be differentiated itself, go through _transforms.py; graphs and subclasses of
Tensor through the operators of _operators.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import _cores, _plain
from ._network import Call, Given
from ._transforms import differentiable_backward

__all__ = ["apply", "keeps_graph", "quickly"]

Tensor = Any
_KEYS = 3  # arguments of _Function before x, the states and the weights


def keeps_graph() -> bool:
    """Whether the backward pass that runs now may be followed by another over the same graph (retain_graph=True)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def apply(call: Call, packed: Any) -> tuple[Tensor, ...]:
    """(y, the last states), of plain tensors; a graph is recorded where one is wanted."""
    made = quickly(_cores.core_of(call.net, call.weights[0]), call.given, call.x, call.state, call.weights, packed)
    if made is None:
        raise ValueError(f"x, states or weights are not what {call.net} takes")
    return made


def quickly(
    core: Any, given: Given, x: Any, state: tuple[Tensor, ...], weights: Sequence[Any], packed: Any
) -> tuple[Tensor, ...] | None:
    """As `apply`, of whatever a module was given: None where that is not what the core takes."""
    records = torch.is_grad_enabled() and any(
        getattr(tensor, "requires_grad", False) for tensor in (*weights, x, *state)
    )
    made: tuple[Tensor, ...] | None = core.forward(x, state, weights, given, records, packed)
    if records and made is not None:
        made = _record(core, given, made, x, *state, *weights)
    return made


class _Function(torch.autograd.Function):
    """The cache is one of the saved tensors, so it is freed with the graph, and whoever replaces saved tensors
    (activation checkpointing, offloading) replaces it too."""

    @staticmethod
    def forward(ctx: Any, core: Any, given: Given, made: tuple[Tensor, ...], *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(made[-1], *given, *sources)
        ctx.set_materialize_grads(False)
        ctx.core = core
        return made[:-1]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Any, ...]:
        core, wanted = ctx.core, ctx.needs_input_grad[_KEYS:]
        cache, lengths, reset, seed, *sources = ctx.saved_tensors
        made = None
        if not torch.is_grad_enabled():
            made = core.backward(cache, slopes, sources, wanted, keeps_graph())
        if not made:
            call = Call.of(core.network, Given(lengths, reset, seed), sources)
            made = _backward(call, cache, slopes, wanted)
        return (*(None,) * _KEYS, *made)


# What torch.autograd.Function.apply comes to, where no transform of torch.func is at work.
_record: Any = super(torch.autograd.Function, _Function).apply


def _backward(
    call: Call, cache: Tensor, slopes: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """What the core alone cannot do."""
    if any(d is not None and torch._C._functorch.is_legacy_batchedtensor(d) for d in slopes):
        # is_grads_batched, which jacobian(vectorize=True) uses: no numbers to point at, and no rule to be called.
        return _plain.backward(call, slopes, wanted)
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():  # differentiated, or mapped over slopes
        return differentiable_backward(call, cache, slopes, wanted)
    return _cores.backward(call, cache, slopes, wanted, keeps_graph())
