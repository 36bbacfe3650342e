"""The picture of what a model attends to (the `plot` extra)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .._pictures import check_picture, save_png

__all__ = ["plot_attention"]


def plot_attention(path: str | Path, panels: Sequence[tuple[list[str], list[str], NDArray[Any]]]) -> None:
    """Write a PNG with a panel for each (source symbols (S), output symbols (n), weights (n, S)).

    Raises what check_picture raises.
    """
    check_picture(path)
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), layout="constrained")
    for i, (source, output, weights) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        # Symbols are shown as they are: to matplotlib what stands between two $ would be a formula.
        axes.set_xticks(range(len(source)), source, parse_math=False)
        axes.set_yticks(range(len(output)), output, parse_math=False)
    save_png(path, figure)
