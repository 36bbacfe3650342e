"""A text's ids, cut by position into a part to train on and a part to validate on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["split"]


def split(ids: ArrayLike, val_frac: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """(train, validation): the first 1 - val_frac of the ids, and the rest; views of ids, in their order.

    Each part that is asked for holds at least two tokens (something to predict, and something to predict it from).
    With val_frac 0 the validation part is empty.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"ids must be a 1-D array of integers, got {array.dtype} of shape {array.shape}")
    if isinstance(val_frac, bool) or not isinstance(val_frac, int | float | np.number) or not 0 <= val_frac < 1:
        raise ValueError(f"val_frac must be a number of at least 0 and less than 1, got {val_frac!r}")
    count = len(array)
    if count < 2:
        raise ValueError(f"the text must hold at least 2 tokens, got {count}: give a longer text")
    if val_frac == 0:
        return array, array[count:]
    if count < 4:
        raise ValueError(
            f"the text must hold at least 4 tokens to be split into two parts, got {count}: "
            "give a longer text, or set val_frac to 0"
        )
    # rounded first, so that 1 - 0.1 of 1000 is 900 and not 899.99
    cut = math.floor(round(count * (1.0 - float(val_frac)), 6))
    for name, size, change in (("train", cut, "smaller"), ("validation", count - cut, "larger")):
        if size < 2:
            raise ValueError(
                f"val_frac {val_frac} of {count} tokens leaves {size} for the {name} part, which needs at least 2: "
                f"set a {change} val_frac, or give a longer text"
            )
    return array[:cut], array[cut:]
