"""One call of the core over tensors: what it computes (`Network`), forward and backward by address, without autograd.

Shapes as in rnnfast.layers: T time steps, B sequences, I inputs, H hidden units, L layers, D directions. Nothing is
checked here but what only the numbers can tell; the modules have done it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from .. import _core

__all__ = [
    "INTEGERS", "Given", "Network", "Wants", "addresses_of", "backward", "core_of", "forward", "output_shapes",
    "split", "steps_and_batch", "stored", "weight_shapes",
]  # fmt: skip

Tensor = Any  # torch.Tensor, which type checkers may have to do without
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_CORES: dict[str, Any] = {
    "float32": _core.BorrowedRnn32,
    "float64": _core.BorrowedRnn64,
    "bfloat16": _core.BorrowedRnnBf16,
}
_NOTHING = _core.Borrowed(0)
_DLPACK = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # functions that read tensors fast


class Network(NamedTuple):
    """What is computed. `form`: "sequences" (T, B, I); "batch first" (B, T, I); "packed" (sum of lengths, I), the rows
    of a PackedSequence; "step" (B, I), a cell. `dropout` is that of this call: 0 in evaluation. `compute` is the
    parameters' dtype, or "bfloat16" where products are of bf16 pairs."""

    cell: str
    input_size: int
    hidden_size: int
    num_layers: int
    directions: int
    bias: bool
    form: str
    dropout: float
    compute: str

    @property
    def states(self) -> int:
        return 2 if self.cell == "lstm" else 1


class Given(NamedTuple):
    """What a call is given beside x, states and weights; none of it has a gradient.

    `lengths` int32 (B,) or for packed rows their batch_sizes int64 (T,); `reset` bool, in x's order; `seed` of dropout,
    int64 ()."""

    lengths: Any = None
    reset: Any = None
    seed: Any = None


@lru_cache(maxsize=256)
def core_of(net: Network) -> Any:
    return _CORES[net.compute](
        net.cell, net.input_size, net.hidden_size, net.num_layers, net.directions, net.bias, net.form
    )


def weight_shapes(net: Network) -> list[tuple[int, ...]]:
    """Of each layer and direction weight_ih, weight_hh and where there are biases bias_ih, bias_hh."""
    if torch.compiler.is_compiling():  # which looks into the function, and warns of a cache
        made: list[tuple[int, ...]] = _weight_shapes.__wrapped__(net)
        return made
    return _weight_shapes(net)


@lru_cache(maxsize=256)
def _weight_shapes(net: Network) -> list[tuple[int, ...]]:
    rows, shapes = GATES[net.cell] * net.hidden_size, []
    for layer in range(net.num_layers):
        width = net.directions * net.hidden_size if layer else net.input_size
        one = [(rows, width), (rows, net.hidden_size), *([(rows,)] * 2 if net.bias else [])]
        shapes += one * net.directions
    return shapes


def addresses_of(net: Network, weights: Sequence[Tensor]) -> list[int] | None:
    """Where dense weights of the right dtype and shapes are; None where one is anything else, or torch has no such way
    to say it."""
    found: list[int] | None = core_of(net).addresses(torch.Tensor, _DLPACK, list(weights))
    return found


def steps_and_batch(net: Network, x: Tensor, given: Given) -> tuple[Any, Any]:
    """(T, B). Of packed rows B is how many sequences the first step has."""
    if net.form == "packed":
        return given.lengths.shape[0], int(given.lengths[0])
    if net.form == "step":
        return 1, x.shape[0]
    return (x.shape[1], x.shape[0]) if net.form == "batch first" else (x.shape[0], x.shape[1])


def output_shapes(net: Network, x: Tensor, batch: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Of y and of each state."""
    if net.form == "step":
        return (batch, net.hidden_size), (batch, net.hidden_size)
    lead = x.shape[:1] if net.form == "packed" else x.shape[:2]
    return (*lead, net.directions * net.hidden_size), (net.num_layers * net.directions, batch, net.hidden_size)


def forward(
    net: Network, given: Given, x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...], keep: bool,
    packed: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(y, the last states[, cache]): no state given is zeros; a cell's y is its first state, so only c follows it.

    The cache (with `keep`) is a tensor that stands for what backward needs, and owns it: a copy of it, or one whose
    cache was used, is worth nothing, and `backward` then computes forward again. `packed`: of core_of(net).pack."""
    core = core_of(net)
    steps, batch = steps_and_batch(net, x, given)
    x, tokens = stored(x), not x.is_floating_point()
    if given.lengths is not None:
        _check_lengths(net, given, x, steps)
    x = _in_rows(net, _tokens(net, given, x, steps) if tokens else x)
    shape, state_shape = output_shapes(net, x, batch)
    like, step = weights[0], net.form == "step"
    y = like.new_empty(shape) if given.lengths is None or net.form == "packed" else like.new_zeros(shape)
    states = [like.new_empty(state_shape) for _ in range(net.states - step)]
    call = _core.BorrowedInput(steps, batch, _borrowed(x), tokens, _address(given.lengths), _borrowed(given.reset))
    starts = [stored(s).contiguous() for s in state]
    addresses = None if any(map(torch.Tensor.is_neg, weights)) else addresses_of(net, weights)
    if addresses is None:
        sources = [stored(w).contiguous() for w in weights]
        addresses = [w.data_ptr() for w in sources]
    drops = net.dropout > 0  # which the core does for a cache alone
    place = core.forward(
        addresses,
        call,
        [s.data_ptr() for s in starts],
        y.data_ptr(),
        [0] * step + [s.data_ptr() for s in states],
        keep or drops,
        net.dropout,
        0 if given.seed is None else int(given.seed),
        packed,
        torch.get_num_threads(),
    )
    return (y, *states, torch.from_numpy(place)) if keep else (y, *states)


class Wants(NamedTuple):
    """Which gradients are wanted; of weights all or none."""

    x: bool
    state: tuple[bool, ...]
    weights: bool


def backward(
    net: Network, given: Given, x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...], cache: Tensor,
    dy: Tensor | None, dstate: tuple[Tensor | None, ...], wants: Wants, keep: bool,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:  # fmt: skip
    """(dx, the gradients of the initial states, those of the weights), None where none is wanted. A gradient of y or of
    a last state may be None, which is zeros."""
    core = core_of(net)
    if dy is not None:
        dy = _in_rows(net, stored(dy))
    ends_early = given.lengths is not None and net.form != "packed"
    like = weights[0]
    dx = None
    if wants.x:
        dx = like.new_zeros(x.shape) if ends_early else like.new_empty(x.shape)
    _, batch = steps_and_batch(net, x, given)
    state_shape = output_shapes(net, x, batch)[1]
    starts = [like.new_empty(state_shape) if want else None for want in wants.state]
    grads = [w.new_empty(w.shape) if wants.weights else None for w in weights]
    ends = [None if d is None else stored(d).contiguous() for d in dstate]
    if net.form == "step":
        ends.insert(0, None)
    rest = (
        _borrowed(dy),
        [_address(d) for d in ends],
        _address(dx),
        [_address(d) for d in starts],
        [_address(g) for g in grads] if wants.weights else [0] * len(grads),
    )
    threads = torch.get_num_threads()
    if not core.backward(cache.data_ptr(), *rest, keep, threads):  # a copy of the cache, or another pass has used it
        cache = forward(net, given, x, state, weights, True)[-1]
        core.backward(cache.data_ptr(), *rest, False, threads)
    return dx, starts, grads


def split(
    made: Sequence[Tensor], wants: Wants, states: int
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """What `backward` returns, from all gradients in a row, where anything stands for one that is not wanted."""
    dx, starts, grads = made[0], made[1 : 1 + states], made[1 + states :]
    return (
        dx if wants.x else None,
        [d if want else None for d, want in zip(starts, wants.state, strict=True)],
        [g if wants.weights else None for g in grads],
    )


def _check_lengths(net: Network, given: Given, x: Tensor, steps: int) -> None:
    lengths = given.lengths.tolist()
    if net.form == "packed":
        if sum(lengths) != x.shape[0] or sorted(lengths, reverse=True) != lengths or lengths[-1] < 1:
            raise ValueError(f"batch_sizes of a PackedSequence of {x.shape[0]} rows must not increase, got {lengths}")
    elif lengths and not 0 <= min(lengths) <= max(lengths) <= steps:
        wrong = min(lengths) if min(lengths) < 0 else max(lengths)
        raise ValueError(f"lengths must be in 0 .. {steps}, got {wrong}")


def _tokens(net: Network, given: Given, x: Tensor, steps: int) -> Tensor:
    """int32; what lies past a sequence's end may be anything."""
    if given.lengths is not None:
        ended = torch.arange(steps, device="cpu")[:, None] >= given.lengths
        x = x.masked_fill(ended.T if net.form == "batch first" else ended, 0)
    if x.numel():
        low, high = (int(v) for v in x.aminmax())
        if low < 0 or high >= net.input_size:
            wrong = low if low < 0 else high
            raise ValueError(f"input of integers must hold tokens in 0 .. {net.input_size - 1}, got {wrong}")
    return x.to(torch.int32)


def stored(tensor: Tensor) -> Tensor:
    """With its numbers in memory, where torch has put off negating them or has zeros that are nowhere."""
    return tensor.resolve_neg().clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor


def _in_rows(net: Network, array: Tensor) -> Tensor:
    """The same numbers, those of a step side by side; packed rows too."""
    if array.is_contiguous():
        return array
    sparse = net.form == "packed" or ((array.ndim > 2 or net.form == "step") and array.stride(-1) != 1)
    return array.contiguous() if sparse else array


def _borrowed(array: Tensor | None) -> Any:
    """An array with its first two strides."""
    return _NOTHING if array is None else _core.Borrowed(array.data_ptr(), *array.stride()[:2])


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())
