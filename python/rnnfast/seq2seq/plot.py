"""The picture of what a model attends to (the `plot` extra)."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["plot_attention"]


def plot_attention(path: str | Path, panels: Sequence[tuple[list[str], list[str], NDArray[Any]]]) -> None:
    """Write a PNG with a panel for each (source symbols (S), output symbols (n), weights (n, S)).

    Raises ImportError without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("the attention picture needs matplotlib: pip install 'rnnfast[plot]'")
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), layout="constrained")
    for i, (source, output, weights) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source)
        axes.set_yticks(range(len(output)), output)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
