"""Ctrl-C during a long loop: take note, finish the step, stop when the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Interrupt"]

# Ctrl-C, a request to end, a terminal that is gone.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupt:
    """`with interrupt.caught():` around a loop that looks at `interrupt.stop` after each step.

    The first Ctrl-C (or SIGTERM, SIGHUP) only sets `stop`; a second one raises KeyboardInterrupt at once. Inside
    `with interrupt.raising():`, around work that may be thrown away, the first one raises too. A signal that is
    ignored (nohup, a shell's background) stays so. Only the main thread gets signals: elsewhere nothing changes.
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
        # None: a handler that is not Python's, which could not be put back.
        ours = [n for n in _SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        old = {n: signal.signal(n, self._handle) for n in ours}
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
        """After the loop, everything saved: what a signal other than Ctrl-C asked for is now done."""
        if self.signal not in (None, signal.SIGINT):
            signal.raise_signal(self.signal)

    def _handle(self, number: int, frame: object) -> None:
        now = self.stop or self._raise
        self.stop, self.signal = True, number
        if now:
            raise KeyboardInterrupt
