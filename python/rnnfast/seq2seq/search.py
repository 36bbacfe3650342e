"""Greedy and beam search: the whole loop runs in the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._check import integer
from .._numbers import finite_from_zero
from .._threads import get_num_threads

if TYPE_CHECKING:
    from .base import Beginning
    from .decoder import Decoder

__all__ = ["Hypothesis", "SearchOptions", "search"]

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
        beam_size = integer("beam_size", self.beam_size, 1)
        n_best, min_length = integer("n_best", self.n_best, 1), integer("min_length", self.min_length, 0)
        max_length = integer("max_length", self.max_length, 0)
        if n_best > beam_size:
            raise ValueError(f"n_best must be at most beam_size {beam_size}, got {n_best}")
        if max_length < min_length:
            raise ValueError(f"max_length must be at least min_length {min_length}, got {max_length}")
        if self.attention and not has_attention:
            raise ValueError("attention must be False for a model without attention, got True")
        penalty = finite_from_zero("length_penalty", self.length_penalty)
        return SearchOptions(beam_size, penalty, min_length, max_length, n_best, bool(self.attention))


def search(
    decoder: Decoder, begin: Beginning, options: SearchOptions, names: Sequence[int] | NDArray[np.intp]
) -> list[list[Hypothesis]]:
    """For each of B sources the `n_best` best hypotheses, the best first (there may be fewer). An error names a source
    by its number in `names`."""
    state, memory, lengths = begin
    parts = state if isinstance(state, tuple) else (state,)
    batch, rnn, threads, o = parts[0].shape[1], decoder.rnn, get_num_threads(), options
    if batch == 0:
        return []
    stepper = rnn._core.stepper(rnn._core.pack(), batch * o.beam_size, threads)
    for k, part in enumerate(parts):
        stepper.set_state(k, np.repeat(np.ascontiguousarray(part), o.beam_size, axis=1))
    attention = decoder.attention
    keys = query = joined = v = None
    if attention is not None and memory is not None:
        memory = np.ascontiguousarray(memory)
        keys, v, joined = attention.memory_keys(memory), attention.params.get("v"), attention.joined.pack()
        query = None if attention.query is None else attention.query.pack()
    rule = _core.BeamRule(
        width=o.beam_size,
        n_best=o.n_best,
        min_length=o.min_length,
        max_length=o.max_length,
        length_penalty=o.length_penalty,
        attention=o.attention,
    )
    table = None if decoder.embedding is None else decoder.embedding.params["weight"]
    lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
    found = _core.beam_search(
        stepper, table, decoder.output.pack(), keys, memory if keys is not None else None, lengths, v, query, joined,
        rule, threads,
    )  # fmt: skip
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
                steps = attention.shape[3] if source_lengths is None else int(source_lengths[b])
                weights = attention[b, k, : n + 1, :steps].copy()
            best.append(Hypothesis(tokens[b, k, :n].copy(), float(scores[b, k]), float(penalized[b, k]), weights))
        results.append(best)
    return results
