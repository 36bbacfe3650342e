"""Networks over CUDA tensors: the GPU's kernels behind the interface that the core has for tensors of the CPU.

Calls go onto torch's current stream, with memory from torch's caching allocator, and come back before the work is done.
The host reads lengths, resets and integer input: of those that are on the device a copy is waited for.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import cuda
from .._cuda_rnn import DeviceCache, DeviceRnn
from .._inputs import Sequences
from ..cuda import DeviceArray, Kind
from ..random import CounterRng
from ._dynamo import constant_in_graphs
from ._network import INTEGERS, PLAIN, Given, Network, output_shapes, steps_and_batch, weight_shapes

__all__ = ["GpuRnn", "problem"]

Tensor = Any


@constant_in_graphs
def problem(compute: str, form: str, is_cuda: bool) -> str | None:
    """What keeps the kernels from tensors of the GPU. `is_cuda` is false for those of tests on an emulated one."""
    if form == "step":
        return "a cell has no GPU kernels"
    if compute not in ("float32", "bfloat16"):
        return f"there are no GPU kernels for {compute}"
    trouble = cuda.problem()
    if trouble:
        return trouble
    if is_cuda and cuda._cuda.emulated:
        return "this build of rnnfast has an emulated GPU, for tests"
    if is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    return None


class _Kept(NamedTuple):
    """What backward needs of a forward call."""

    network: Network
    shape: tuple[int, ...]  # of x
    seq: Sequences  # without x
    cache: DeviceCache


class _Place(np.ndarray):
    """A byte of the host that stands for what was kept, and owns it: it goes with the tensors that have the byte."""

    kept: _Kept

    @classmethod
    def of(cls, kept: _Kept) -> Tensor:
        place = np.zeros(1, np.uint8).view(cls)
        place.kept = kept
        tensor = torch.from_numpy(place)
        _places[tensor.data_ptr()] = place
        return tensor


_places: weakref.WeakValueDictionary[int, _Place] = weakref.WeakValueDictionary()


class GpuRnn:
    """As `_core.TensorRnn32` and its like."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._rnn = DeviceRnn(
            network.cell, network.input_size, network.hidden_size, network.num_layers, network.directions,
            network.compute == "bfloat16", [], [],
        )  # fmt: skip

    def pack(self, weights: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """Copies: the kernels take weights in torch's order. None where a tensor is no weight of this network."""
        return tuple(w.detach().clone() for w in weights) if self._takes(weights, weights[0]) else None

    def forward(
        self, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], given: Given, keep: bool, packed: Any
    ) -> tuple[Tensor, ...] | None:
        """y, the last states and, if `keep`, a tensor that is the cache; None where the kernels cannot take these."""
        if not self._takes(weights, weights[0]) or not self._takes_input(x, state, given, weights[0]):
            return None
        net = self.network
        with torch.cuda.device_of(weights[0]):
            if net.form == "packed":
                seq, kind = self._packed(x, given)
            else:
                seq, kind = self._rnn.read(x, given.lengths, given.reset, net.form == "batch first")
            first: list[DeviceArray | None] = [kind.floats("hx", s) for s in state]
            used = weights if keep or packed is None else packed  # backward may need forward again, of the sources
            params = self._by_direction([kind.floats("weight", w) for w in used])
            rng = CounterRng(int(given.seed)) if net.dropout else None
            # Outputs are dropped where there is a cache.
            y, last, cache = self._rnn.forward(
                seq, kind, net.form, first, keep or rng is not None, net.dropout, rng, params
            )
            made = kind.result(y), *map(kind.result, last)
        if not keep or cache is None:
            return made
        return *made, _Place.of(_Kept(net, tuple(x.shape), seq._replace(x=None), cache))

    def backward(
        self, place: Tensor, slopes: Sequence[Tensor | None], sources: Sequence[Tensor], wanted: Sequence[bool],
        keep: bool,
    ) -> tuple[Tensor | None, ...] | bool | None:  # fmt: skip
        """The gradients of `sources`, which are x, the initial states and the weights, as far as they are `wanted`,
        else None; weights have all or none. False where there is no cache any more at this place, None where slopes are
        not what the kernels can take. Whether to `keep` the cache is for whoever holds the place."""
        owner = _places.get(place.data_ptr())
        if owner is None or owner.kept.network != self.network or owner.kept.shape != sources[0].shape:
            return False
        net, seq = self.network, owner.kept.seq
        n = len(sources) - len(weight_shapes(net))  # x and states
        shapes = output_shapes(net, sources[0], seq.batch)
        if not all(d is None or _is_plain(d, sources[n], shapes[i > 0]) for i, d in enumerate(slopes)):
            return None
        with torch.cuda.device_of(sources[n]):
            kind = cuda.kind_of(sources[n])
            dy, *dstate = (None if d is None else kind.floats("a gradient", d) for d in slopes)
            sums = [kind.empty(shape) if any(wanted[n:]) else None for shape in weight_shapes(net)]
            dx, first = self._rnn.backward(
                owner.kept.cache, kind, seq, dy, dstate, wanted[0], any(wanted[1:n]), keep=True,
                accumulate=False, grads=self._by_direction(sums),
            )  # fmt: skip
            starts: Sequence[DeviceArray | None] = first or [None] * (n - 1)
            made = zip((dx, *starts, *sums), (*wanted[:n], *[True] * len(sums)), strict=True)
            return tuple(kind.result(d) if want else None for d, want in made)

    def _takes(self, weights: Sequence[Tensor], like: Tensor) -> bool:
        shapes = weight_shapes(self.network)
        return len(weights) == len(shapes) and all(map(_is_plain, weights, itertools.repeat(like), shapes))

    def _takes_input(self, x: Tensor, state: Sequence[Tensor], given: Given, like: Tensor) -> bool:
        net = self.network
        if len(state) not in (0, net.states) or type(x) not in PLAIN or x.device != like.device:
            return False
        lead = 1 if net.form == "packed" else 2
        if x.ndim == lead + 1:
            if not _is_plain(x, like, (*x.shape[:-1], net.input_size)):
                return False
        elif x.ndim != lead or lead == 1 or x.dtype not in INTEGERS:
            return False
        _, batch = steps_and_batch(net, x, given)
        return all(_is_plain(s, like, (net.num_layers * net.directions, batch, net.hidden_size)) for s in state)

    def _packed(self, x: Tensor, given: Given) -> tuple[Sequences, Kind]:
        """Rows of a PackedSequence, which are the schedule's own."""
        running = given.lengths.numpy()  # of each step
        right = running.size > 0 and running[-1] > 0 and (np.diff(running) <= 0).all()
        if not right or running.sum() != len(x):
            raise ValueError(
                "batch_sizes of a PackedSequence must not increase, be positive and add up to its "
                f"{len(x)} rows, got {running.tolist()}"
            )
        steps, kind = len(running), cuda.kind_of(x)
        lengths = np.repeat(np.arange(steps, 0, -1, dtype=np.int32), np.diff(running[::-1], prepend=0))
        array = kind.floats("input", x)
        return Sequences(array, False, steps, int(running[0]), False, (len(x),), lengths, None), kind

    def _by_direction(self, arrays: Sequence[DeviceArray | None]) -> list[DeviceArray | None]:
        """Four of each layer and direction, None for biases that are not there."""
        if self.network.bias:
            return list(arrays)
        return [a for i in range(0, len(arrays), 2) for a in (*arrays[i : i + 2], None, None)]


def _is_plain(tensor: Tensor, like: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether it is a dense float32 tensor of this shape, on the device of `like`."""
    return (
        type(tensor) in PLAIN
        and tensor.dtype is torch.float32
        and tensor.shape == shape
        and tensor.device == like.device
        and tensor.layout is torch.strided
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )
