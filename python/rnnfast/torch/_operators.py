"""The network as operators of PyTorch, `rnnfast::forward` and `rnnfast::backward`: for torch.compile, torch.export and
tensors that are not plain ones. They are functional, have fake kernels, and are differentiable.

`rnnfast::forward` returns y, the last states and the cache: a tensor of one byte that owns what backward needs (see
_cores.forward). Where a graph hands backward a copy of it, or runs it twice, backward computes forward again.
"""

from __future__ import annotations

from typing import Any

import torch

from . import _cores, _network, _plain
from ._autograd import keeps_graph
from ._network import Call, Given, Network

__all__ = ["apply"]

Tensor = Any
_NET = (
    "Tensor? lengths, Tensor? reset, Tensor? seed, str cell, int input_size, int hidden_size, int num_layers, "
    "int directions, bool bias, str form, float dropout, str compute"
)
_FORWARD = f"(Tensor x, Tensor[] state, Tensor[] weights, {_NET}, bool keep) -> Tensor[]"
_BACKWARD = (
    "(Tensor dy, Tensor[] dstate, Tensor x, Tensor[] state, Tensor[] weights, Tensor cache, "
    f"{_NET}, bool want_x, bool want_state, bool want_weights) -> Tensor[]"
)


def apply(call: Call, packed: Any) -> tuple[Tensor, ...]:
    """(y, the last states); an operator has no room for packed weights and takes them as they are."""
    net, given, x, state, weights = call
    if net.form == "packed" and not state:
        shape = net.num_layers * net.directions, int(given.lengths[0]), net.hidden_size
        state = (weights[0].new_zeros(shape),) * net.states
    # An exported program is for inference first; where it is trained, backward computes forward again.
    wanted = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    keep = wanted and any(t.requires_grad for t in (x, *state, *weights))
    made = torch.ops.rnnfast.forward(x, list(state), list(weights), *given, *net, keep)
    return tuple(made[:-1])


# ---- forward ----


def _forward(x: Tensor, state: Any, weights: Any, *rest: Any) -> list[Tensor]:
    given, net, keep = Given(*rest[:3]), Network(*rest[3:-1]), rest[-1]
    made = _cores.forward(Call(net, given, x, tuple(state), tuple(weights)), keep)
    return list(made) if keep else [*made, _no_cache()]


def _forward_fake(x: Tensor, state: Any, weights: Any, *rest: Any) -> list[Tensor]:
    given, net, keep = Given(*rest[:3]), Network(*rest[3:-1]), rest[-1]
    batch = _fake_batch(net, x, given, state)
    shape, state_shape = _network.output_shapes(net, x, batch)
    like = weights[0]
    states = [like.new_empty(state_shape) for _ in range(net.states - (net.form == "step"))]
    return [like.new_empty(shape), *states, _no_cache(keep)]


def _no_cache(keep: bool = False) -> Tensor:
    """What stands for a cache is a byte of the CPU, wherever x is."""
    return torch.empty(int(keep), dtype=torch.uint8, device="cpu")


def _fake_batch(net: Network, x: Tensor, given: Given, state: Any) -> Any:
    """Of packed rows B is a number in a tensor, which a fake one has not: there the initial state says it."""
    if net.form != "packed":
        return _network.steps_and_batch(net, x, given)[1]
    return state[0].shape[1]


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, weights, *rest = inputs
    _save(ctx, Call(Network(*rest[3:-1]), Given(*rest[:3]), x, tuple(state), tuple(weights)), output[-1])


def _forward_backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    (net, given, x, state, weights), (cache,) = _saved(ctx)
    need = ctx.needs_input_grad
    of_states, of_weights = _each(need[1], len(state)), any(_each(need[2], len(weights)))
    dy, *dstate = grads[:-1]
    dx, *rest = torch.ops.rnnfast.backward(
        dy, dstate, x, list(state), list(weights), cache, *given, *net, bool(need[0]), any(of_states), of_weights
    )
    return (
        dx if need[0] else None,
        [d if want else None for d, want in zip(rest[: len(state)], of_states, strict=True)],
        rest[len(state) :] if of_weights else [None] * len(weights),
        *([None] * (len(Given._fields) + len(Network._fields) + 1)),
    )


def _save(ctx: Any, call: Call, *tensors: Tensor) -> None:
    ctx.save_for_backward(*(t for t in call.given if t is not None), *call.sources, *tensors)
    ctx.net, ctx.given, ctx.count = call.net, [t is not None for t in call.given], len(call.sources)


def _saved(ctx: Any) -> tuple[Call, list[Tensor]]:
    tensors = iter(ctx.saved_tensors)
    given = Given(*(next(tensors) if there else None for there in ctx.given))
    return Call.of(ctx.net, given, [next(tensors) for _ in range(ctx.count)]), list(tensors)


def _each(need: Any, count: int) -> list[bool]:
    return list(need) if isinstance(need, list | tuple) else [bool(need)] * count


# ---- backward ----


def _backward(dy: Tensor, dstate: Any, x: Tensor, state: Any, weights: Any, cache: Tensor, *rest: Any) -> list[Tensor]:
    given, net, (want_x, want_state, want_weights) = Given(*rest[:3]), Network(*rest[3:-3]), rest[-3:]
    call = Call(net, given, x, tuple(state), tuple(weights))
    wanted = (want_x, *(want_state,) * len(state), *(want_weights,) * len(weights))
    found = _cores.backward(call, cache, (dy, *dstate), wanted, keeps_graph())
    return [weights[0].new_empty(0) if made is None else made for made in found]


def _backward_fake(
    dy: Tensor, dstate: Any, x: Tensor, state: Any, weights: Any, cache: Tensor, *rest: Any
) -> list[Tensor]:
    like, (want_x, want_state, want_weights) = weights[0], rest[-3:]
    parts = ([x], want_x), (state, want_state), (weights, want_weights)
    return [like.new_empty(t.shape if want else 0) for tensors, want in parts for t in tensors]


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    dy, dstate, x, state, weights, _, *rest = inputs
    _save(ctx, Call(Network(*rest[3:-3]), Given(*rest[:3]), x, tuple(state), tuple(weights)), dy, *dstate)
    ctx.wanted = rest[-3], *[rest[-2]] * len(state), *[rest[-1]] * len(weights)


def _backward_backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    """By PyTorch's own operations."""
    call, slopes = _saved(ctx)
    found = iter(_plain.second_backward(call, ctx.wanted, slopes, grads))
    ddy, ddstate, dx = next(found), [next(found) for _ in slopes[1:]], next(found)
    dstate = [next(found) for _ in call.state]
    return ddy, ddstate, dx, dstate, list(found), *([None] * (1 + len(Given._fields) + len(Network._fields) + 3))


def _register() -> None:
    for name, schema, kernel, fake, context, gradient in (
        ("forward", _FORWARD, _forward, _forward_fake, _forward_context, _forward_backward),
        ("backward", _BACKWARD, _backward, _backward_fake, _backward_context, _backward_backward),
    ):
        operator = torch.library.custom_op(
            f"rnnfast::{name}", kernel, mutates_args=(), device_types=("cpu", "cuda"), schema=schema
        )
        operator.register_fake(fake)
        operator.register_autograd(gradient, setup_context=context)


_register()
