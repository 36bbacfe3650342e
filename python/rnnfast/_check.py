"""Checks of arguments that several modules share: an error names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = ["MOST", "MOST_LAYERS", "MOST_TOKENS", "boolean", "integer"]

MOST = 2**31 - 1  # of a number of things: more than there can be of any, and a C integer holds it
MOST_TOKENS = 2**31  # different ones: they are 32-bit integers from 0 on
MOST_LAYERS = 1000  # more would be a mistake, and each is made before memory runs out


def boolean(name: str, value: Any) -> bool:
    """The argument, which must be a bool of Python's or NumPy's, as one of Python's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return bool(value)


def integer(name: str, value: Any, least: int, most: int = MOST) -> int:
    """The argument as an int, which must be at least `least` and at most `most`; bool is no integer."""
    expected = f"{name} must be an integer " + (f"of at least {least}" if most >= MOST else f"from {least} to {most}")
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{expected}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if number > most:
        expected = f"{name} must be an integer from {least} to {most}"
    if not least <= number <= most:
        raise ValueError(f"{expected}, got {number}")
    return number
