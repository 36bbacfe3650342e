"""What the machine can do at best, and from it the least time that a case can take.

A case is a list of phases; a phase takes as long as its arithmetic or as reading its weights, whichever is longer:

    limit = sum over phases of max(flops / peak, bytes / bandwidth of a buffer of that size) + exchanges * exchange time

Counted are the multiply-adds of the matrix products (not the cells' functions), each weight read once a phase and each
gradient of a weight written once, at the speed of reading; not inputs, outputs or saved values. With more than one
thread the work is dealt in the ways below, and the limit is that of the best way and number of threads, up to those of
the case:

    sequences   each thread takes its share of the batch and reads all weights
    directions  each thread takes a direction
    panels      each thread takes its share of the weights, and the threads meet at every step

Peak and exchange time are those of the minute of the case: a machine that others use, too, has less to give at times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import _core
from .cases import GATES, Case, Layer, Model, lengths

__all__ = ["Machine", "exchange", "flops", "limit", "peak", "weight_bytes"]

SIZES = tuple(2**k for k in range(13, 29))  # 8 KiB, well inside the first cache, to 256 MiB, well outside the last
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Machine:
    """float32, bfloat16: flop/s of so many threads at once (bfloat16 is empty where the processor has none);
    bandwidth: bytes/s that so many threads read together, each a buffer of its own of so many bytes."""

    float32: Mapping[int, float]
    bfloat16: Mapping[int, float]
    bandwidth: Mapping[int, Mapping[int, float]]

    @classmethod
    def measure(cls, threads: int) -> Machine:
        """About 4 seconds for two threads."""
        counts = range(1, threads + 1)
        bfloat16 = {n: _core.peak_bfloat16(n, 0.2) for n in counts}
        found = cls(
            {n: _core.peak_float32(n, 0.2) for n in counts},
            {n: peak for n, peak in bfloat16.items() if peak},
            {n: {size: _core.read_bandwidth(size, n, 0.1) for size in SIZES} for n in counts},
        )
        _core.pool_clear()
        return found

    def best_of(self, other: Machine) -> Machine:
        """What either of two measurements has shown to be possible."""

        def most(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
            return {k: max(a.get(k, 0.0), b.get(k, 0.0)) for k in sorted(a.keys() | b.keys())}

        counts = sorted(self.bandwidth.keys() | other.bandwidth.keys())
        return Machine(
            most(self.float32, other.float32),
            most(self.bfloat16, other.bfloat16),
            {n: most(self.bandwidth.get(n, {}), other.bandwidth.get(n, {})) for n in counts},
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Machine:
        """Of what to_dict returned, or of JSON made from it, where keys are text."""

        def numbers(mapping: Mapping[Any, float]) -> dict[int, float]:
            return {int(k): v for k, v in mapping.items()}

        return cls(
            numbers(values["float32"]),
            numbers(values["bfloat16"]),
            {int(n): numbers(sizes) for n, sizes in values["bandwidth"].items()},
        )

    def peak(self, threads: int, dtype: str) -> float:
        return (self.bfloat16 if dtype == "bfloat16" and self.bfloat16 else self.float32)[threads]

    def read_rate(self, size: float, threads: int) -> float:
        """Bytes a second of one of so many threads, each reading a buffer of `size` bytes; between the measured sizes
        it goes linearly with the logarithm."""
        measured = self.bandwidth[threads]
        return float(np.interp(np.log2(max(size, 1)), np.log2(list(measured)), list(measured.values()))) / threads


def peak(case: Case, threads: int) -> float:
    """flop/s of this moment, for turns beside a case."""
    seconds = 0.002
    bfloat16 = _core.peak_bfloat16(threads, seconds) if case.dtype == "bfloat16" else 0.0
    return bfloat16 or _core.peak_float32(threads, seconds)


def exchange(threads: int) -> float:
    """Seconds in which two threads tell each other that they have arrived, 0 for one thread. Taken beside each case: on
    a virtual machine it depends on where the two processors lie at the moment, from 40 to 450 ns."""
    return _core.exchange_time(0.02) if threads > 1 else 0.0


@dataclass(frozen=True)
class Phase:
    """What one thread does: `times` times `flops`, reading `nbytes` out of the `size` bytes that come round again."""

    flops: float
    nbytes: float
    size: float
    times: int = 1


def limit(case: Case, threads: int, machine: Machine, exchange: float, peak: float | None = None) -> float:
    """Seconds below which no implementation can get on this machine; `exchange` in seconds and `peak` (of so many
    threads, the machine's where it is None) are those of that moment."""
    share = 1.0 if peak is None else peak / machine.peak(threads, case.dtype)
    ways = [_seconds(case, 1, "sequences", machine, share)]
    for n in range(2, threads + 1):
        for way in ("sequences", "directions", "panels"):
            if _possible(case, n, way):
                meeting = _exchanges(case) * exchange if way == "panels" else 0.0
                ways.append(_seconds(case, n, way, machine, share) + meeting)
    return min(ways)


def flops(case: Case) -> float:
    """Floating-point operations of the matrix products."""
    return sum(phase.flops * phase.times for phase in _phases(case, 1, "sequences"))


def weight_bytes(case: Case) -> float:
    """Bytes of weights that one thread reads, and of gradients that it writes."""
    return sum(phase.nbytes * phase.times for phase in _phases(case, 1, "sequences"))


def _possible(case: Case, threads: int, way: str) -> bool:
    directions = 2 if isinstance(case, Layer) and case.bidirectional else 1
    return way == "panels" or (case.B if way == "sequences" else directions) >= threads


def _seconds(case: Case, threads: int, way: str, machine: Machine, share: float) -> float:
    """`share`: of the machine's peak."""
    peak = machine.peak(threads, case.dtype) / threads * share
    return sum(
        phase.times * max(phase.flops / peak, phase.nbytes / machine.read_rate(phase.size, threads))
        for phase in _phases(case, threads, way)
    )


def _exchanges(case: Case) -> int:
    """Once a step, layer, direction and pass, because a step needs all of the one before; sampling, for the logits
    once more."""
    if isinstance(case, Model) and case.job == "sample":
        return case.T * (case.layers + 1)
    directions = 2 if isinstance(case, Layer) and case.bidirectional else 1
    return case.T * case.layers * directions * (2 if _backward(case) else 1)


def _backward(case: Case) -> bool:
    return case.mode == "forward+backward" if isinstance(case, Layer) else case.job == "step"


def _phases(case: Case, threads: int, way: str) -> Iterator[Phase]:
    """Of one thread of `threads`, each with the same share."""
    of_batch = threads if way == "sequences" else 1
    of_weights = threads if way == "panels" else 1
    directions = 2 if isinstance(case, Layer) and case.bidirectional else 1
    here = directions / (threads if way == "directions" else 1)
    element = 2 if case.dtype == "bfloat16" else FLOAT
    weights = list(_weights(case))
    # What a call touches once lies where everything that it touches fits.
    touched = element + (FLOAT if _backward(case) else 0)
    from_zeros = isinstance(case, Layer) and case.mode != "step"
    unread = element if from_zeros and case.T == 1 else 0  # bytes of R's numbers
    all_bytes = sum(w * touched + r * (touched - unread) for w, r in weights) * here / of_weights
    steps = _active(case)
    rows = sum(active * times for active, times in steps) / of_batch

    def product(elements: float, size: float, rows: float, nbytes: int = element, times: int = 1) -> Phase:
        share = elements * here / of_weights
        return Phase(2 * rows * share, share * nbytes, size, times)

    def recurrence(r: float, without: int) -> Iterator[Phase]:
        """`without`: the steps, 0 or 1, that have no product."""
        first = True
        for active, times in steps:
            times, without = times - without, 0
            if first and times:
                yield product(r, all_bytes, active / of_batch)
                times, first = times - 1, False
            if times:
                yield product(r, r * element / of_weights, active / of_batch, times=times)

    if isinstance(case, Model) and case.job == "sample":  # everything is read for every token
        elements = sum(w + r for w, r in weights) + case.V * case.H
        yield product(elements, elements * element / of_weights, case.B / of_batch, times=case.T)
        return
    for layer, (w, r) in enumerate(weights):
        yield product(w, all_bytes, rows)
        yield from recurrence(r, int(from_zeros))
        if _backward(case):
            yield from recurrence(r, 1)  # no step comes after the last one
            if layer or isinstance(case, Layer) or case.embedding:
                yield product(w, all_bytes, rows)  # gradient of the input
            yield product(w, all_bytes, rows, FLOAT)
            yield product(r, all_bytes, rows - from_zeros * steps[0][0] / of_batch, FLOAT)
    if isinstance(case, Model):
        output = case.V * case.H
        for _ in range(3):  # logits, gradient of the features, gradient of the weights
            yield product(output, output * FLOAT / of_weights, rows)
        # Clipping reads the gradients, Adam parameters, gradients and two moments.
        one_hot = 0 if case.embedding else GATES["lstm"] * case.H * case.V
        parameters = sum(w + r for w, r in weights) + output + one_hot + (case.embedding or 0) * case.V
        yield Phase(0, 5 * FLOAT * parameters / threads, 4 * FLOAT * parameters / threads)


def _weights(case: Case) -> Iterator[tuple[int, int]]:
    """Elements of W and R of each layer, one direction; no W where the input is one-hot."""
    cell, directions, width = "lstm", 1, 0
    if isinstance(case, Layer):
        cell, directions, width = case.cell, 2 if case.bidirectional else 1, case.I
    elif case.embedding:
        width = case.embedding
    for layer in range(case.layers):
        yield GATES[cell] * case.H * (directions * case.H if layer else width), GATES[cell] * case.H * case.H


def _active(case: Case) -> list[tuple[int, int]]:
    """(sequences, steps with so many), longest first."""
    cut = lengths(case) if isinstance(case, Layer) else None
    if cut is None:
        return [(case.B, case.T)]
    active = (np.arange(case.T)[:, None] < cut).sum(axis=1)
    counts, times = np.unique(active[active > 0], return_counts=True)
    return [(int(n), int(k)) for n, k in zip(counts[::-1], times[::-1], strict=True)]
