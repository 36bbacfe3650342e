"""Ctrl-C during a long loop: take note, finish the step, stop when the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Interrupt"]


class Interrupt:
    """`with interrupt.caught():` around a loop that looks at `interrupt.stop` after each step.

    The first Ctrl-C (or SIGTERM) only sets `stop`; a second one raises KeyboardInterrupt at once. Inside
    `with interrupt.raising():`, around work that may be thrown away, the first one raises too. Only the main thread
    gets signals: elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.stop = False
        self.signal: int | None = None
        self._raise = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def obey(self) -> None:
        """After the loop, everything saved: what a SIGTERM asked for is now done."""
        if self.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: object) -> None:
        now = self.stop or self._raise
        self.stop, self.signal = True, number
        if now:
            raise KeyboardInterrupt
