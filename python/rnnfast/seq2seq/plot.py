"""The picture of what a model attends to (the `plot` extra)."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .._run_folder import replacing

__all__ = ["check_picture", "plot_attention"]


def check_picture(path: str | Path) -> None:
    """Raise ImportError without matplotlib, and OSError where `path` is no file that can be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("the attention picture needs matplotlib: pip install 'rnnfast[plot]'")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


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
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # of symbols that the font lacks: it draws a box
        figure.savefig(temporary, format="png", dpi=120)
