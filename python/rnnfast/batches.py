"""Batches of sequences of about one length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import integer

__all__ = ["Bucketed", "pad", "padding"]

Array = NDArray[Any]


class Bucketed:
    """The batches of an epoch: arrays of indices into `lengths`, each index once, every batch but one of `batch_size`.

    With a seed the sequences are shuffled, sorted by length within pools of `pool` batches, cut, and the batches
    shuffled: `epoch(n)` gives another order for each n, the same one again for the same arguments. Without, they come
    from the shortest to the longest, equal ones in their order.

    Args:
        lengths: (N,) integers; or (N, K), say of sources and targets: sorted by the first column, then by the next.
        batch_size: sequences of a batch.
        seed: an integer of at least 0, or None.
        pool: larger ones leave less padding, smaller ones more chance. Sequences of one length are shuffled freely.

    len() is the number of batches. Raises TypeError or ValueError for arguments that are none of these.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, *, seed: int | None = None, pool: int = 100) -> None:
        array = np.asarray(lengths)
        if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
            raise TypeError(
                f"lengths must be integers of shape (N,) or (N, K), got {array.dtype} of shape {array.shape}"
            )
        self.lengths = array.reshape(len(array), -1)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.seed = None if seed is None else integer("seed", seed, 0, 2**64 - 1)
        self.pool = integer("pool", pool, 1)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[NDArray[np.intp]]:
        """The batches of epoch `number`, from batch `start` on."""
        count, size = len(self.lengths), self.batch_size
        if self.seed is None:
            order, pool = np.arange(count), max(1, count)
        else:
            rng = np.random.default_rng([self.seed, number])
            order, pool = rng.permutation(count), self.pool * size
        for first in range(0, count, pool):
            part = order[first : first + pool]
            order[first : first + pool] = part[np.lexsort(self.lengths[part].T[::-1])]
        starts = np.arange(0, count, size)
        if self.seed is not None:
            starts = rng.permutation(starts)
        return (order[first : first + size] for first in starts[start:].tolist())


def pad(sequences: Sequence[Array]) -> tuple[Array, NDArray[np.int32]]:
    """Sequences (T_i, ...) side by side: an array (T, B, ...), zero past their ends, and their lengths (B,)."""
    lengths = np.array([len(s) for s in sequences], np.int32)
    first = np.asarray(sequences[0])
    batch = np.zeros((int(lengths.max()), len(sequences), *first.shape[1:]), first.dtype)
    for i, sequence in enumerate(sequences):
        batch[: lengths[i], i] = sequence
    return batch, lengths


def padding(lengths: ArrayLike, batches: Iterator[Any] | Sequence[Any]) -> float:
    """The part of all steps of these batches that is padding, 0 to 1; of several columns, their steps together."""
    columns = np.asarray(lengths)
    columns = columns.reshape(len(columns), -1)
    padded = sum(len(batch) * int(columns[batch].max(axis=0).sum()) for batch in batches)
    return 1 - int(columns.sum()) / padded if padded else 0.0
