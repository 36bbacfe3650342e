"""Pictures, where matplotlib (the `plot` extra) is installed."""

from __future__ import annotations

import errno
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

from ._run_folder import replacing

__all__ = ["check_picture", "have_matplotlib", "save_png"]


def have_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def check_picture(path: str | Path) -> None:
    """Raise ImportError without matplotlib, and OSError where `path` is no file that can be written."""
    if not have_matplotlib():
        raise ImportError("the picture needs matplotlib: pip install 'rnnfast[plot]'")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def save_png(path: str | Path, figure: Any) -> None:
    """Write a matplotlib Figure, whole or not at all."""
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # of symbols that the font lacks: it draws a box
        figure.savefig(temporary, format="png", dpi=120)
