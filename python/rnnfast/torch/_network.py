"""One call of a core over tensors: what it computes (`Network`), of what (`Call`), and which shapes that has.

Shapes as in rnnfast.layers: T time steps, B sequences, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

__all__ = [
    "INTEGERS",
    "PLAIN",
    "Call",
    "Given",
    "Network",
    "output_shapes",
    "steps_and_batch",
    "weight_shapes",
]

Tensor = Any  # torch.Tensor, which type checkers may have to do without
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
PLAIN = frozenset((torch.Tensor, torch.nn.Parameter))
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


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
    int64 (). All of it is in memory of the CPU, wherever x is."""

    lengths: Any = None
    reset: Any = None
    seed: Any = None


class Call(NamedTuple):
    """A network and what it gets. `state` is () for zeros."""

    net: Network
    given: Given
    x: Tensor
    state: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What there may be gradients of, which are always in this order."""
        return (self.x, *self.state, *self.weights)

    @classmethod
    def of(cls, net: Network, given: Given, sources: Sequence[Tensor]) -> Call:
        n = len(sources) - len(weight_shapes(net))
        return cls(net, given, sources[0], tuple(sources[1:n]), tuple(sources[n:]))


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
