"""Checks of arguments that several modules share: an error names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = ["integer"]


def integer(name: str, value: Any, least: int) -> int:
    """The argument as an int, which must be at least `least`; bool is no integer."""
    expected = f"{name} must be an integer of at least {least}"
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{expected}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if number < least:
        raise ValueError(f"{expected}, got {number}")
    return number
