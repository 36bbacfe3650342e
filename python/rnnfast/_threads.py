"""How many threads a call takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import _core
from ._check import integer

__all__ = ["get_num_threads", "set_num_threads", "threads"]

_here = threading.local()


def get_num_threads() -> int:
    """Threads that a call from this Python thread takes at the most."""
    n: int = getattr(_here, "count", 0) or _everywhere
    return n or _core.default_threads()


def set_num_threads(n: int | None) -> None:
    """Threads for all calls of the process; None goes back to the default.

    The default is the smallest of: processors that the process may run on, its control group's quota,
    RNNFAST_NUM_THREADS and OMP_NUM_THREADS; in a forked child 1. Calls with few sequences, whose threads wait for each
    other at every step, take no more than there are processors (or RNNFAST_NUM_THREADS, where that is more).
    """
    global _everywhere
    _everywhere = 0 if n is None else integer("n", n, 1)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """`with rnnfast.threads(n):` calls of this Python thread inside it take at most n threads."""
    before = getattr(_here, "count", 0)
    _here.count = integer("n", n, 1)
    try:
        yield
    finally:
        _here.count = before


_everywhere = 0
