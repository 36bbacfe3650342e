"""How often a model is right, and how wrong it is where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["edit_distance", "score", "wilson"]

Array = NDArray[Any]


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions that make b of a (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(corner + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval (95 %) of a share of which `right` of `count` were seen (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    p, square = right / count, z * z / count
    middle = (p + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(p * (1 - p) / count + square / count / 4)
    return (middle - half if right > 0 else 0.0), (middle + half if right < count else 1.0)


def score(found: Sequence[Array], references: Sequence[Sequence[Array]]) -> dict[str, Any]:
    """Of one output a source and all that would have been right for it:

    correct, sources    outputs that are one of their references, and how many there are
    sequence_error      the part that is none of them (WER of words, in the sense of grapheme to phoneme)
    interval            its 95 % interval, as a pair
    token_error         edit distances to the nearest reference, over the tokens of these references
    """
    correct = distance = tokens = 0
    for output, wanted in zip(found, references, strict=True):
        guess = output.tolist()
        errors = [(edit_distance(guess, w.tolist()), len(w)) for w in wanted]
        nearest, length = min(errors)
        correct, distance, tokens = correct + (nearest == 0), distance + nearest, tokens + length
    count = len(found)
    low, high = wilson(count - correct, count)
    return {
        "sources": count,
        "correct": correct,
        "sequence_error": 1 - correct / count if count else math.nan,
        "interval": (low, high),
        "token_error": distance / tokens if tokens else math.nan,
    }
