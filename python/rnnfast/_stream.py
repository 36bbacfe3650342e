"""Streams in chunks: tokens cut into rows and chunks (`Batches`), chunks cut and joined to equal length (`pieces`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import integer

__all__ = ["Batches", "Data", "Piece", "batches", "cut", "join", "pairs", "pieces"]

Array: TypeAlias = NDArray[Any]
Data: TypeAlias = Iterable[tuple[Array, ...]] | tuple[Array, ...]


class Batches:
    """Iterator over chunks of tokens (T+1, B): rows 0..T-1 are the input, rows 1..T the target.

    The stream is cut into B contiguous rows; column b of every chunk carries on where column b of the chunk before
    ended, so a state can be carried. Tokens that fill no whole chunk at the end of a row are left out. `len()` is the
    number of chunks of one pass, `position` the chunk that comes next; it may be set (to resume), and a new `for`
    loop after the last chunk starts a new pass.
    """

    def __init__(self, stream_ids: ArrayLike, batch_size: int, seq_length: int, *, start: int = 0) -> None:
        ids = np.asarray(stream_ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"stream_ids must be a 1-D array of integers, got {ids.dtype} of shape {ids.shape}")
        self.batch_size = integer("batch_size", batch_size, 1)
        self.seq_length = integer("seq_length", seq_length, 1)
        self._row_length = (len(ids) - 1) // self.batch_size  # inputs; the last target is the next row's first input
        self._chunks = self._row_length // self.seq_length
        if len(ids) < 2 or self._chunks < 1:
            raise ValueError(_too_short(len(ids), self.batch_size, self.seq_length))
        self._ids = ids
        self._position = 0
        self.position = start

    @property
    def position(self) -> int:
        """The chunk that comes next, 0 to len()."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        value = integer("position", value, 0, 2**63 - 1)
        if value > self._chunks:
            raise ValueError(f"position must be in 0 .. {self._chunks} (chunks of this stream), got {value}")
        self._position = value

    def __len__(self) -> int:
        return self._chunks

    def __iter__(self) -> Batches:
        if self._position == self._chunks:
            self._position = 0
        return self

    def __next__(self) -> Array:
        if self._position == self._chunks:
            raise StopIteration
        first = self._position * self.seq_length
        rows = np.arange(self.batch_size) * self._row_length
        steps = np.arange(first, first + self.seq_length + 1)
        chunk: Array = self._ids[steps[:, None] + rows[None, :]]  # (T+1, B)
        self._position += 1
        return chunk

    def __repr__(self) -> str:
        return (
            f"Batches({len(self._ids)} tokens, batch_size={self.batch_size}, seq_length={self.seq_length}, "
            f"position={self._position} of {self._chunks})"
        )


def batches(stream_ids: ArrayLike, batch_size: int, seq_length: int, *, start: int = 0) -> Batches:
    """Chunks of tokens (seq_length + 1, batch_size) of a stream cut into batch_size contiguous rows; see Batches."""
    return Batches(stream_ids, batch_size, seq_length, start=start)


def pairs(chunks: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    """(x, target) of each chunk of tokens (T+1, B): the data that truncated, full and k1k2 take."""
    for chunk in chunks:
        yield chunk[:-1], chunk[1:]


class Piece(NamedTuple):
    x: Array  # (T, B, ...)
    target: Array  # (T, B, ...)
    reset: Array | None  # (T, B)


def pieces(data: Data, length: int | None) -> Iterator[Piece]:
    """The chunks of data, as they come or cut and joined to `length` steps (the last may be shorter)."""
    held: list[Piece] = []
    count = 0
    for item in [data] if isinstance(data, tuple) and isinstance(data[0], np.ndarray) else data:
        piece = _piece(item)
        steps = len(piece.x)
        if length is None:
            yield piece
            continue
        first = 0
        while first < steps:
            last = min(steps, first + length - count)
            held.append(cut(piece, first, last))
            count += last - first
            first = last
            if count == length:
                yield join(held)
                held, count = [], 0
    if held:
        yield join(held)


def _piece(item: Any) -> Piece:
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        raise ValueError(f"data must yield (x, target) or (x, target, reset), got {_describe(item)}")
    x, target = np.asarray(item[0]), np.asarray(item[1])
    reset = None if len(item) == 2 or item[2] is None else np.asarray(item[2])
    for name, array in (("target", target), ("reset", reset)):
        if array is not None and (x.ndim < 2 or array.shape[:2] != x.shape[:2]):
            raise ValueError(f"x and {name} must both start with (T, B), got {x.shape} and {array.shape}")
    if len(x) == 0:
        raise ValueError(f"data must yield chunks of at least one step, got x of shape {x.shape}")
    return Piece(x, target, reset)


def cut(piece: Piece, first: int, last: int) -> Piece:
    return Piece(
        piece.x[first:last], piece.target[first:last], None if piece.reset is None else piece.reset[first:last]
    )


def join(parts: list[Piece]) -> Piece:
    if len(parts) == 1:
        return parts[0]
    reset = None
    if any(part.reset is not None for part in parts):
        reset = np.concatenate(
            [np.zeros(part.x.shape[:2], bool) if part.reset is None else part.reset for part in parts]
        )
    return Piece(np.concatenate([part.x for part in parts]), np.concatenate([part.target for part in parts]), reset)


def _too_short(tokens: int, batch_size: int, seq_length: int) -> str:
    needed = batch_size * seq_length + 1
    text = (
        f"the stream has {tokens} tokens; batch_size {batch_size} x seq_length {seq_length} needs at least {needed}: "
    )
    choices = []
    if tokens > seq_length:
        choices.append(f"set batch_size to at most {(tokens - 1) // seq_length}")
    if tokens > batch_size:
        choices.append(f"set seq_length to at most {(tokens - 1) // batch_size}")
    return text + ", or ".join([*choices, "give a longer text"])


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} items"
    return f"{type(value).__name__}"
