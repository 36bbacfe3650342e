"""The same networks in PyTorch's own operations, step by step: slow, but differentiable as often as anyone likes.

Double backward runs through it. It is also the oracle of what torch.nn has not: lengths, resets and integer input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import reference_ops
from ._network import Call, Given, Network, steps_and_batch

__all__ = ["backward", "forward", "second_backward"]

Tensor = Any


def forward(call: Call) -> tuple[Tensor, ...]:
    """(y, the last states) as _cores.forward has them."""
    net, given, x, state, weights = call
    steps, batch = steps_and_batch(net, x, given)
    dtype = weights[0].dtype
    if not x.dtype.is_floating_point:
        x = torch.nn.functional.one_hot(x.long(), net.input_size).to(dtype)
    valid, reset = _masks(net, given, steps, batch, x.device)
    if net.form == "packed":
        places = valid.nonzero(as_tuple=True)
        x = x.new_zeros(steps, batch, x.shape[-1]).index_put(places, x)
    elif net.form == "step":
        x = x[None]
        state = tuple(s[None] for s in state)
    elif net.form == "batch first":
        x = x.transpose(0, 1)
    x = x.masked_fill(~valid[..., None], 0)
    if not state:
        rows = net.num_layers * net.directions
        state = (x.new_zeros(rows, batch, net.hidden_size),) * net.states
    masks = _dropout_masks(net, given, (steps, batch, net.hidden_size), x)
    each = 4 if net.bias else 2
    lasts: list[tuple[Tensor, ...]] = []
    for layer in range(net.num_layers):
        outputs = []
        for d in range(net.directions):
            at = layer * net.directions + d
            own = weights[each * at : each * (at + 1)]
            y, last = _layer(net, x, [s[at] for s in state], own, valid, reset, d == 1)
            outputs.append(y)
            lasts.append(last)
        x = torch.cat(outputs, -1)
        if masks is not None and layer + 1 < net.num_layers:
            x = x * masks[layer]
    ends = [torch.stack([last[k] for last in lasts]) for k in range(net.states)]
    if net.form == "packed":
        return x[places], *ends
    if net.form == "step":
        return tuple(s[0] for s in ends)
    return x.transpose(0, 1) if net.form == "batch first" else x, *ends


def backward(call: Call, slopes: Sequence[Tensor | None], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """As _cores.backward, with a graph where gradients are enabled; any kind of cotangents."""
    graph, tensors = torch.is_grad_enabled(), call.sources
    with torch.enable_grad():
        if not graph:
            tensors = tuple(t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True))
        made = forward(Call.of(call.net, call.given, tensors))
    pairs = [(m, d) for m, d in zip(made, slopes, strict=True) if d is not None]
    places = [i for i, (t, want) in enumerate(zip(tensors, wanted, strict=True)) if want and t.requires_grad]
    found: list[Tensor | None] = [None] * len(tensors)
    outputs, cotangents = zip(*pairs, strict=True)
    for i, gradient in zip(
        places,
        torch.autograd.grad(outputs, [tensors[i] for i in places], cotangents, create_graph=graph, allow_unused=True),
        strict=True,
    ):
        found[i] = gradient
    return tuple(found)


def second_backward(
    call: Call, wanted: Sequence[bool], slopes: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of the slopes and of call.sources, for cotangents of the gradients that a backward pass gave."""
    n, tokens = len(slopes), not call.x.is_floating_point()

    def outputs(*sources: Tensor) -> tuple[Tensor, ...]:
        return forward(Call.of(call.net, call.given, (call.x, *sources) if tokens else sources))

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        _, pull = torch.func.vjp(outputs, *tensors[n:])
        return tuple(g for g, want in zip(pull(tuple(tensors[:n])), wanted[tokens:], strict=True) if want)

    _, pull = torch.func.vjp(gradients, *slopes, *call.sources[tokens:])
    of_wanted = [c for c, want in zip(cotangents[tokens:], wanted[tokens:], strict=True) if want]
    found = list(pull(tuple(of_wanted)))
    return [*found[:n], None, *found[n:]] if tokens else found


def _masks(net: Network, given: Given, steps: int, batch: int, device: Any) -> tuple[Tensor, Tensor]:
    """Where a sequence has a step, and where it is cut before one, both (T, B) bool."""
    valid = torch.ones(steps, batch, dtype=torch.bool, device="cpu")
    if net.form == "packed":
        valid = torch.arange(batch, device="cpu") < given.lengths[:, None]
    elif given.lengths is not None:
        valid = torch.arange(steps, device="cpu")[:, None] < given.lengths
    reset = torch.zeros(steps, batch, dtype=torch.bool, device="cpu")
    if given.reset is not None:
        reset = given.reset.T if net.form == "batch first" else given.reset
    return valid.to(device), reset.to(device)


def _dropout_masks(net: Network, given: Given, shape: tuple[int, int, int], like: Tensor) -> list[Tensor] | None:
    if net.dropout == 0:
        return None
    assert given.seed is not None
    masks = reference_ops.layer_dropout_masks(net.dropout, int(given.seed), 0, net.num_layers, net.directions, shape)
    return [torch.as_tensor(mask, device="cpu").to(like.device, like.dtype) for mask in masks]


def _layer(
    net: Network, x: Tensor, state: list[Tensor], own: tuple[Tensor, ...], valid: Tensor, reset: Tensor, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer and direction: y (T, B, H), zero past a sequence's end, and the states (B, H) at its last step."""
    w_ih, w_hh, b_ih, b_hh = (*own, None, None) if len(own) == 2 else own
    given = torch.nn.functional.linear(x, w_ih, b_ih)  # (T, B, G * H)
    steps = range(len(x))
    outputs: list[Tensor] = [x] * len(x)
    for t in reversed(steps) if reverse else steps:
        # The cut before time t is between t - 1 and t, whichever way time runs.
        cut = reset[t]
        if reverse:
            cut = reset[t + 1] & valid[t + 1] if t + 1 < len(x) else torch.zeros_like(cut)
        before = [s.masked_fill(cut[:, None], 0) for s in state]
        after = _step(net.cell, given[t], before, torch.nn.functional.linear(before[0], w_hh, b_hh))
        running = valid[t][:, None]
        state = [torch.where(running, a, s) for a, s in zip(after, state, strict=True)]
        outputs[t] = torch.where(running, after[0], torch.zeros_like(after[0]))
    return torch.stack(outputs), tuple(state)


def _step(cell: str, given: Tensor, before: list[Tensor], recurrent: Tensor) -> list[Tensor]:
    if cell == "lstm":
        i, f, g, o = (given + recurrent).chunk(4, -1)
        c = f.sigmoid() * before[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    if cell == "gru":
        (r, z, n), (r_h, z_h, n_h) = given.chunk(3, -1), recurrent.chunk(3, -1)
        z = (z + z_h).sigmoid()
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        return [(1 - z) * n + z * before[0]]
    a = given + recurrent
    return [a.tanh() if cell == "rnn_tanh" else a.relu()]
