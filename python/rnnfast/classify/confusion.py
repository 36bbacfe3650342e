"""Which classes are taken for which."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._pictures import check_picture, save_png

__all__ = ["confusion_matrix", "plot_matrix", "write_matrix"]

Counts: TypeAlias = NDArray[np.int64]


def confusion_matrix(model: Any, X: Any, y: Any, *, lengths: Any = None) -> Counts:
    """(K, K) counts: row i, column j is how often a fitted classifier or labeler takes class i for class j, both in the
    order of its classes_. Arguments as for its score."""
    x, found = model._outputs(X, lengths, y)
    true = np.concatenate([np.atleast_1d(t) for t in model._read_targets(y, x)])
    got = np.concatenate([np.atleast_1d(np.argmax(f, axis=-1)) for f in found])
    count = len(model.classes_)
    return np.bincount(true * count + got, minlength=count * count).reshape(count, count).astype(np.int64)


def write_matrix(matrix: Counts, names: list[str], *, padded: bool = False) -> str:
    """As CSV, or for the eye: a row for each true class, a column for each predicted one."""
    rows = [["true \\ predicted", *names], *([n, *map(str, r)] for n, r in zip(names, matrix.tolist(), strict=True))]
    if padded:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "".join("  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) + "\n" for r in rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def plot_matrix(path: str | Path, matrix: Counts, names: list[str]) -> None:
    """As a picture: each row's shares as shades, the counts written in. Raises ImportError without matplotlib (the
    `plot` extra), and OSError where `path` is no file that can be written."""
    check_picture(path)
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    count = len(names)
    figure = Figure(figsize=(2 + 0.45 * count, 2 + 0.45 * count), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(count, count):
        if matrix[i, j]:
            shade = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=7, color=shade)
    # Names are shown as they are: to matplotlib what stands between two $ would be a formula.
    axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False)
    axes.set_yticks(range(count), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    save_png(path, figure)
