"""The loss of a language model over a whole text, each token once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import integer

if TYPE_CHECKING:
    from .model import LanguageModel

__all__ = ["evaluate_text"]

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Any


def evaluate_text(
    model: LanguageModel,
    ids: ArrayLike,
    *,
    batch_size: int = 1,
    seq_length: int = 256,
    carry: bool = True,
    warmup: int = 0,
) -> float:
    """Mean loss in nats over ids[1:], each token once.

    With `carry` the text is cut into batch_size contiguous rows (for speed: one row is exact) whose state is carried
    to their end, in chunks of seq_length; rows after the first begin with the state that the `warmup` tokens before
    them leave, else with zeros. Without `carry` the state is reset every seq_length tokens, batch_size windows at a
    time; the batch size changes only the speed.
    """
    array = model.check_tokens("ids", ids, (1,))
    batch_size, seq_length = integer("batch_size", batch_size, 1), integer("seq_length", seq_length, 1)
    warmup = integer("warmup", warmup, 0)
    if len(array) < 2:
        raise ValueError(f"ids must hold at least 2 tokens, got {len(array)}")
    if carry:
        return _evaluate_rows(model, array, min(batch_size, len(array) - 1), seq_length, warmup)
    count = len(array) - 1
    whole, total = count // seq_length, 0.0
    starts = np.arange(whole) * seq_length
    for first in range(0, whole, batch_size):
        columns = starts[first : first + batch_size]
        tokens = array[np.arange(seq_length + 1)[:, None] + columns]
        total += model.evaluate(tokens)[0] * (tokens.size - len(columns))
    if count % seq_length:
        total += model.evaluate(array[whole * seq_length :, None])[0] * (count % seq_length)
    return total / count


def _evaluate_rows(model: LanguageModel, array: Array, rows: int, seq_length: int, warmup: int) -> float:
    count = len(array) - 1
    length, longer = divmod(count, rows)  # the first `longer` rows hold one token more
    starts = np.arange(rows) * length + np.minimum(np.arange(rows), longer)
    state = _warm_state(model, array, starts, min(warmup, length))
    total = 0.0
    for first in range(0, length, seq_length):
        steps = np.arange(first, min(first + seq_length, length) + 1)
        loss, state = model.evaluate(array[steps[:, None] + starts], state)
        total += loss * (len(steps) - 1) * rows
    if longer:
        tokens = array[np.arange(length, length + 2)[:, None] + starts[:longer]]
        total += model.evaluate(tokens, _each(state, lambda s: s[:, :longer]))[0] * longer
    return total / count


def _warm_state(model: LanguageModel, array: Array, starts: Array, warmup: int) -> State:
    """State of each row after the `warmup` tokens before it: nothing is before the first one."""
    if warmup == 0 or len(starts) == 1:
        return None
    _, state = model.infer(array[np.arange(-warmup, 0)[:, None] + starts[1:]], None, None)
    return _each(state, lambda s: np.concatenate([np.zeros_like(s[:, :1]), s], axis=1))


def _each(state: State, change: Any) -> State:
    parts = [np.ascontiguousarray(change(np.asarray(s))) for s in (state if isinstance(state, tuple) else (state,))]
    return tuple(parts) if isinstance(state, tuple) else parts[0]
