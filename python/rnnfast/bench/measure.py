"""Timing: the answers of all peers are compared first, then short blocks of calls take turns in one process.

Turns, because a machine's clock and its other users change over minutes: what is compared must be measured side by
side. A block is a few calls long, so that a peer finds its own data and code in the caches, as a user's loop would.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnswersDiffer", "Effort", "Timing", "compare", "interleaved"]

Answers = Mapping[str, NDArray[Any]]
NOISY = 0.1  # a spread above this is told


class AnswersDiffer(Exception):
    """Two peers that should compute the same do not."""


@dataclass(frozen=True)
class Effort:
    """How long to measure a case: `repeats` blocks of `block` seconds for each peer, or fewer (at least `least`) once
    `limit` seconds have passed. Before each block there is a rest, `settle` seconds at a time: see _rest."""

    repeats: int = 9
    least: int = 3
    block: float = 0.02
    limit: float = 4.0
    settle: float = 0.01


QUICK = Effort(repeats=5, least=3, block=0.005, limit=1.0)


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: one value for each block, the mean of its `calls` calls."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest block to the third quartile, as a part of the median: large where the machine was busy with
        something else now and then, and also where it was most of the time."""
        return float((np.quantile(self.seconds, 0.75) - self.minimum) / self.median)

    def to_dict(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": self.minimum,
            "spread": round(self.spread, 4),
            "repeats": len(self.seconds),
            "calls": self.calls,
        }


def compare(ours: Answers, theirs: Answers, tolerance: float) -> float:
    """The largest difference, as a part of the largest value of the same array; above `tolerance` it raises."""
    if ours.keys() != theirs.keys():
        raise AnswersDiffer(f"one computes {sorted(ours)}, the other {sorted(theirs)}")
    worst = 0.0
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape:
            raise AnswersDiffer(f"{name} has shape {mine.shape} here and {other.shape} there")
        a, b = mine.astype(np.float64), other.astype(np.float64)
        scale = float(np.abs(b).max(initial=0.0)) or 1.0
        difference = float(np.abs(a - b).max(initial=0.0)) / scale
        if not difference <= tolerance:  # NaN included
            raise AnswersDiffer(f"{name} differs by {difference:.1e} of its largest value, allowed are {tolerance:.0e}")
        worst = max(worst, difference)
    return worst


def interleaved(
    runs: Mapping[str, Callable[[], object]], effort: Effort, beside: Callable[[], object] | None = None
) -> dict[str, Timing]:
    """Time the runs in turns; who begins changes from round to round. `beside` is called once a round."""
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        began = time.perf_counter()
        calls = {name: _calls(run, effort.block) for name, run in runs.items()}
        for turn in range(effort.repeats):
            if turn >= effort.least and time.perf_counter() - began > effort.limit:
                break
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                _rest(effort.settle)
                seconds[name].append(_block(runs[name], calls[name]))
            if beside is not None:
                _rest(effort.settle)
                beside()
    return {name: Timing(tuple(seconds[name]), calls[name]) for name in names}


def _rest(settle: float) -> None:
    """Until no thread of this process runs. Those of whoever came before wait for more work, some for 70 milliseconds,
    on the processors that the next one needs."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(settle)
        if time.process_time() - before <= settle / 10:
            return


def _block(run: Callable[[], object], calls: int) -> float:
    if calls > 1:
        run()  # brings this peer's data back into the caches
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def _calls(run: Callable[[], object], block: float) -> int:
    """How many calls fill a block."""
    run()
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            run()
        elapsed = time.perf_counter() - start
        if elapsed >= block / 4:
            return max(1, math.ceil(count * block / elapsed))
        count *= 2


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's cycle collector, which would fall on one peer's time."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
