"""What a training run shows and writes down: the progress bar, metrics.csv and loss.png."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ._pictures import have_matplotlib, save_png
from ._run_folder import replacing

__all__ = ["Progress", "append_metrics", "duration", "plot_losses", "write_metrics"]

COLUMNS = ("step", "epoch", "items", "train_loss", "val_loss", "learning_rate", "items_per_second", "seconds")
Row = Mapping[str, Any]


def duration(seconds: float) -> str:
    """75 -> '1:15'"""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class Progress:
    """A tqdm bar where `stream` is a terminal, else a plain line now and then. Messages go to `stream` too, texts
    (samples) to standard output, for as long as somebody takes them there. A stream may be closed (None)."""

    BAR_SECONDS = 0.1  # between two redraws of the bar
    LINE_SECONDS = 5.0  # between two plain lines

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, every: int | None = None) -> None:
        self.quiet = quiet
        self.stream = stream if stream is not None else sys.stderr
        self.every = every
        self._bar: Any = None
        self._terminal = not quiet and self.stream is not None and self.stream.isatty()
        self._takes_texts = True
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether `update` would show anything: lets the loop skip the arithmetic."""
        if self.quiet:
            return False
        if not self._terminal and self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self._last >= (self.BAR_SECONDS if self._terminal else self.LINE_SECONDS)

    def update(self, done: float, line: str) -> None:
        """`done`: the part of the run that is behind, 0 to 1."""
        self._last = time.monotonic()
        if not self._terminal:
            self.message(line)
            return
        if self._bar is None:
            from tqdm import tqdm

            look = "{percentage:3.0f}%|{bar}|{desc}"
            self._bar = tqdm(total=100, file=self.stream, bar_format=look, leave=False, dynamic_ncols=True, delay=1e-9)
        self._bar.n = 100 * min(done, 1.0)
        self._bar.set_description_str(" " + line, refresh=False)
        self._bar.refresh()

    def message(self, line: str) -> None:
        if not self.quiet:
            self._write(self.stream, line + "\n")

    def text(self, text: str) -> None:
        if self.quiet or not self._takes_texts:
            return
        try:
            self._write(sys.stdout, text + "\n")
        except OSError as e:  # `| head`, a full disk: no reason to stop training
            self._takes_texts = False
            self.message(f"no more samples: standard output: {e.strerror or e}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, stream: TextIO | None, text: str) -> None:
        if stream is None:
            return
        if self._bar is not None:
            self._bar.clear()
        try:
            stream.write(text)
        except UnicodeEncodeError as e:  # a letter that the stream does not have must not end a training
            stream.write(text.encode(e.encoding, "replace").decode(e.encoding))
        stream.flush()
        if self._bar is not None:
            self._bar.refresh()


def _csv_line(row: Row) -> str:
    # repr of a float is the shortest text that reads back to the same bits.
    return ",".join("" if row.get(c) is None else repr(row[c]) for c in COLUMNS) + "\n"


def write_metrics(path: Path, rows: Sequence[Row]) -> None:
    """Write the file anew, whole or not at all: after a resume it must not keep rows from beyond the checkpoint."""
    out = io.StringIO()
    out.write(",".join(COLUMNS) + "\n")
    for row in rows:
        out.write(_csv_line(row))
    with replacing(path) as temporary:
        temporary.write_text(out.getvalue(), encoding="ascii")


def append_metrics(path: Path, row: Row) -> None:
    with open(path, "a", encoding="ascii") as f:
        f.write(_csv_line(row))


def plot_losses(path: Path, rows: Sequence[Row]) -> bool:
    """Draw the losses against the step, where matplotlib (the `plot` extra) is installed; whether it was."""
    if not have_matplotlib() or not rows:
        return False
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for column, name in (("train_loss", "training"), ("val_loss", "validation")):
        points = [(r["step"], r[column]) for r in rows if r.get(column) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." if column == "val_loss" else "", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    save_png(path, figure)
    return True
