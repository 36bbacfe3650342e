"""Checks of arguments that several modules share: an error names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = ["boolean", "integer"]


def boolean(name: str, value: Any) -> bool:
    """The argument, which must be a bool of Python's or NumPy's, as one of Python's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return bool(value)


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The argument as an int, which must be at least `least` and at most `most`; bool is no integer."""
    expected = f"{name} must be an integer " + (f"of at least {least}" if most is None else f"from {least} to {most}")
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{expected}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{expected}, got {number}")
    return number
