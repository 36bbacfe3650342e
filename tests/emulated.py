"""The device that a test runs on: the emulated one of a build with RNNFAST_CUDA=EMULATE in an order of threads that
the test chooses, or a real one."""

from __future__ import annotations

import contextlib
import os

import pytest

from cases import Case
from rnnfast import cuda

needs_device = pytest.mark.skipif(not cuda.available(), reason=f"device='cuda' does not work here: {cuda.problem()}")
SCHEDULES = [("in_order", 0), ("random", 1)]
if os.environ.get("RNNFAST_SLOW") == "1":
    SCHEDULES += [("reverse", 0), ("random", 2), ("random", 3), ("thread_ahead", 4), ("block_ahead", 5), ("random", 6)]


def sms(case: Case) -> int:
    """Of the emulated device: so many that the blocks of all units are resident."""
    return 2 if case.B == 40 and case.H == 64 else 4 if case.H <= 128 else 80


@contextlib.contextmanager
def emulating(schedule: str, seed: int, sms: int = 4):
    """An emulated device's order of threads; on a real one the hardware chooses."""
    if cuda._cuda.emulated:
        cuda._cuda.emulate(schedule, seed, sms)
    try:
        yield
    finally:
        if cuda._cuda.emulated:
            cuda._cuda.emulate("in_order", 0, 4)


def access_counts(call, sms: int = 64) -> list[tuple]:
    """What the emulated device counts while call() runs: (source, shared, write, times, passes, ideal passes, sectors,
    useful bytes) of each access."""
    try:
        cuda._cuda.emulate("in_order", 0, sms, count=True)
        call()
        return cuda._cuda.emulated_counts()
    finally:
        cuda._cuda.emulate("in_order")
