"""Greedy and beam search: the whole loop runs in the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._check import boolean, integer
from .._numbers import finite_from_zero
from .._threads import get_num_threads
from .encoder import parts_of

if TYPE_CHECKING:
    from .base import Beginning
    from .decoder import Decoder

__all__ = ["Hypothesis", "Packed", "SearchOptions", "pack", "search"]

Array = NDArray[Any]


class Hypothesis(NamedTuple):
    """A sequence that a search has found.

    tokens     (n,) int32, without the end
    score      the sum of the log-probabilities of the tokens and of the end behind them
    penalized  score / ((5 + n + 1) / 6) ** length_penalty, what hypotheses are ordered by (Wu et al. 2016)
    attention  (n + 1, S) weights of the source's steps at each token and at the end, or None
    """

    tokens: NDArray[np.int32]
    score: float
    penalized: float
    attention: Array | None


class SearchOptions(NamedTuple):
    """What `generate` takes; checked."""

    beam_size: int = 1
    length_penalty: float = 0.0
    min_length: int = 0
    max_length: int = 200
    n_best: int = 1
    attention: bool = False

    def checked(self, has_attention: bool) -> SearchOptions:
        beam_size, attention = integer("beam_size", self.beam_size, 1), boolean("attention", self.attention)
        n_best, min_length = integer("n_best", self.n_best, 1), integer("min_length", self.min_length, 0)
        max_length = integer("max_length", self.max_length, 0)
        if n_best > beam_size:
            raise ValueError(f"n_best must be at most beam_size {beam_size}, got {n_best}")
        if max_length < min_length:
            raise ValueError(f"max_length must be at least min_length {min_length}, got {max_length}")
        if attention and not has_attention:
            raise ValueError("attention must be False for a model without attention, got True")
        penalty = finite_from_zero("length_penalty", self.length_penalty)
        return SearchOptions(beam_size, penalty, min_length, max_length, n_best, attention)


class Packed(NamedTuple):
    """A decoder's layers as the kernels read them, once for all batches of a search; held ones are packed already."""

    rnn: Any
    table: Array | None  # of the embedding
    output: Any
    query: Any = None  # of attention, as what follows
    joined: Any = None
    v: Array | None = None


def pack(decoder: Decoder) -> Packed:
    attention = decoder.attention
    table = None if decoder.embedding is None else decoder.embedding.table
    packed = Packed(decoder.rnn.packed(), table, decoder.output.packed())
    if attention is None:
        return packed
    query = None if attention.query is None else attention.query.packed()
    return packed._replace(query=query, joined=attention.joined.packed(), v=attention.v)


def search(
    decoder: Decoder,
    packed: Packed,
    begin: Beginning,
    options: SearchOptions,
    names: Sequence[int] | NDArray[np.intp],
) -> list[list[Hypothesis]]:
    """For each of B sources the `n_best` best hypotheses, the best first (there may be fewer). An error names a source
    by its number in `names`."""
    state, memory, lengths, _ = begin
    parts = parts_of(state)
    (layers, batch, hidden), rnn, threads, o = parts[0].shape, decoder.rnn, get_num_threads(), options
    rows = batch * o.beam_size
    stepper = rnn._core.stepper(packed.rnn, rows, threads, in_loops=True)
    for k, part in enumerate(parts):
        begun = np.zeros((layers, rows, hidden), part.dtype)
        begun[:, :batch] = part
        stepper.set_state(k, begun)
    keys = None
    if decoder.attention is not None:
        memory = np.ascontiguousarray(memory)
        lengths = np.ascontiguousarray(lengths, np.int32)
        keys = decoder.attention.memory_keys(memory, lengths)
    rule = _core.BeamRule(
        width=o.beam_size,
        n_best=o.n_best,
        min_length=o.min_length,
        max_length=o.max_length,
        length_penalty=o.length_penalty,
        attention=o.attention,
    )
    found = _core.beam_search(
        stepper,
        packed.table,
        packed.output,
        keys,
        memory,
        lengths,
        packed.v,
        packed.query,
        packed.joined,
        rule,
        threads,
    )
    if found[-1].any():
        raise FloatingPointError(f"the logits of sequence {names[int(np.argmax(found[-1]))]} are not finite")
    return _hypotheses(found, lengths)


def _hypotheses(found: tuple[Any, ...], source_lengths: Any) -> list[list[Hypothesis]]:
    tokens, lengths, scores, penalized, attention, _ = found
    results: list[list[Hypothesis]] = []
    for b, row in enumerate(lengths.tolist()):
        best: list[Hypothesis] = []
        for k, n in enumerate(row):
            if n < 0:
                break
            weights = None
            if attention is not None:
                weights = attention[b, k, : n + 1, : source_lengths[b]].copy()
            best.append(Hypothesis(tokens[b, k, :n].copy(), float(scores[b, k]), float(penalized[b, k]), weights))
        results.append(best)
    return results
