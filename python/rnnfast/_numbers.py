"""Checks of real numbers given as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["finite_from_zero", "positive", "real"]


def real(name: str, value: Any, expected: str, accept: Callable[[float], bool]) -> float:
    """The argument as a float that `accept` takes (it is false for NaN where it compares); `expected` says which."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    number = float(value)
    if not accept(number):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def finite_from_zero(name: str, value: Any) -> float:
    return real(name, value, "a finite number of at least 0", lambda v: 0 <= v < math.inf)


def positive(name: str, value: Any) -> float:
    """Greater than 0; infinite is allowed."""
    return real(name, value, "a number greater than 0", lambda v: v > 0)
