"""One call of the core over tensors: what it computes (`Network`), forward and backward by address, without autograd.

Shapes as in rnnfast.layers: T time steps, B sequences, I inputs, H hidden units, L layers, D directions. Nothing is
checked here but what only the numbers can tell; the modules have done it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from .. import _core

__all__ = [
    "INTEGERS",
    "Given",
    "Network",
    "backward",
    "core_of",
    "forward",
    "is_alive",
    "output_shapes",
    "weight_shapes",
]

Tensor = Any  # torch.Tensor, which type checkers may have to do without
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_CORES: dict[str, Any] = {
    "float32": _core.BorrowedRnn32,
    "float64": _core.BorrowedRnn64,
    "bfloat16": _core.BorrowedRnnBf16,
}
_NO_STRIDES = _core.Strides(0, 0)


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
    return _CORES[net.compute](net.cell, net.input_size, net.hidden_size, net.num_layers, net.directions, net.bias)


@lru_cache(maxsize=256)
def weight_shapes(net: Network) -> list[tuple[int, ...]]:
    """Of each layer and direction weight_ih, weight_hh and where there are biases bias_ih, bias_hh."""
    rows, shapes = GATES[net.cell] * net.hidden_size, []
    for layer in range(net.num_layers):
        width = net.directions * net.hidden_size if layer else net.input_size
        one = [(rows, width), (rows, net.hidden_size), *([(rows,)] * 2 if net.bias else [])]
        shapes += one * net.directions
    return shapes


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
    tokens = not x.dtype.is_floating_point
    x = _in_rows(net, x.to(torch.int32) if tokens else x)
    shape, state_shape = output_shapes(net, x, batch)
    ends_early = given.lengths is not None and net.form != "packed"
    like = weights[0]
    y = like.new_zeros(shape) if ends_early else like.new_empty(shape)
    states = [like.new_empty(state_shape) for _ in range(net.states - (net.form == "step"))]
    to = [s.data_ptr() for s in states]
    if net.form == "step":
        to.insert(0, 0)
    lengths, reset, reset_strides = _given(net, given)
    call = _core.BorrowedInput(
        steps, batch, x.data_ptr(), tokens, _strides(net, x), _strides(net, y), lengths, reset, reset_strides
    )
    starts = [s.contiguous() for s in state]
    sources = [w if w.is_contiguous() else w.contiguous() for w in weights]
    drops = net.dropout > 0  # which the core does for a cache alone
    place = core.forward(
        [w.data_ptr() for w in sources],
        call,
        [s.data_ptr() for s in starts],
        y.data_ptr(),
        to,
        keep or drops,
        net.dropout,
        0 if given.seed is None else int(given.seed),
        packed,
        torch.get_num_threads(),
    )
    return (y, *states, torch.from_numpy(place)) if keep else (y, *states)


def is_alive(net: Network, cache: Tensor) -> bool:
    """Whether backward can use this cache."""
    return bool(core_of(net).has(cache.data_ptr()))


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
    if not is_alive(net, cache):
        cache, keep = forward(net, given, x, state, weights, True)[-1], False
    if dy is not None:
        dy = _in_rows(net, dy)
    ends_early = given.lengths is not None and net.form != "packed"
    like = weights[0]
    dx = None
    if wants.x:
        dx = like.new_zeros(x.shape) if ends_early else like.new_empty(x.shape)
    _, batch = steps_and_batch(net, x, given)
    state_shape = output_shapes(net, x, batch)[1]
    starts = [like.new_empty(state_shape) if want else None for want in wants.state]
    grads = [w.new_zeros(w.shape) if wants.weights else None for w in weights]
    ends = [None if d is None else d.contiguous() for d in dstate]
    if net.form == "step":
        ends.insert(0, None)
    core.backward(
        cache.data_ptr(),
        _address(dy),
        _NO_STRIDES if dy is None else _strides(net, dy),
        [_address(d) for d in ends],
        _address(dx),
        _NO_STRIDES if dx is None else _strides(net, dx),
        [_address(d) for d in starts],
        [_address(g) for g in grads] if wants.weights else [0] * len(grads),
        keep,
        torch.get_num_threads(),
    )
    return dx, starts, grads


def _in_rows(net: Network, array: Tensor) -> Tensor:
    """The same numbers, those of a step side by side; packed rows too."""
    if net.form == "packed" or (array.ndim > 2 or net.form == "step") and array.stride(-1) != 1:
        return array.contiguous()
    return array


def _strides(net: Network, array: Tensor) -> Any:
    if net.form == "packed":
        return _core.Strides(0, 0, array.stride(0))
    if net.form == "step":
        return _core.Strides(0, array.stride(0))
    time, batch = (1, 0) if net.form == "batch first" else (0, 1)
    return _core.Strides(array.stride(time), array.stride(batch))


def _given(net: Network, given: Given) -> tuple[int, int, Any]:
    lengths, reset = given.lengths, given.reset
    if reset is None:
        return _address(lengths), 0, _NO_STRIDES
    return _address(lengths), reset.data_ptr(), _strides(net, reset)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())
