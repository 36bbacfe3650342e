"""Sampling from a language model: the whole loop runs in the compiled kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .._check import integer
from .._inputs import as_array, as_tokens, check_state
from .._numbers import finite_from_zero, real
from .._threads import get_num_threads
from ..module import on_host
from ..random import fresh_seed

__all__ = ["Sampler"]

Array = NDArray[Any]
_CORES: dict[str, Any] = {"float32": _core.Sampler32, "float64": _core.Sampler64, "bfloat16": _core.SamplerBf16}


class Sampler:
    """A model's recurrent layers and output layer, packed as they are now, with the states of `num_samples` samples.

    The model has `embedding` (an Embedding, or None where tokens are one-hot), `rnn` and `output` (a Linear). After
    an interrupt (Ctrl-C) the sampler can be used again, from the state that it has reached; setting `state` mends that.
    """

    def __init__(self, model: Any, num_samples: int = 1) -> None:
        rnn, output, embedding = model.rnn, model.output, model.embedding
        if rnn.bidirectional:
            raise ValueError("model.rnn must have one direction, got a bidirectional one")
        self._rnn, self._num_samples = rnn, integer("num_samples", num_samples, 1)
        self._vocabulary = int(output.out_features)
        threads = get_num_threads()
        if rnn.device is not None:  # one token at a time is a matter of latency, which the CPU has less of
            rnn, output, embedding = on_host(rnn), on_host(output), embedding and on_host(embedding)
        self._stepper = rnn._core.stepper(rnn.pack(), self._num_samples, threads, in_loops=True)
        table = None if embedding is None else embedding.params["weight"]
        self._core = _CORES[rnn.compute_dtype](self._stepper, table, output.pack(), threads)

    @property
    def state(self) -> Any:
        """A copy of the recurrent state: (layers, num_samples, H), for an LSTM a pair (h, c). Set None for zeros."""
        parts = tuple(self._stepper.get_state(k) for k in range(self._rnn._states))
        return parts if len(parts) > 1 else parts[0]

    @state.setter
    def state(self, state: Any) -> None:
        rnn = self._rnn
        shape = (rnn.num_layers, self._num_samples, rnn.hidden_size)
        for k, part in enumerate(check_state("state", state, rnn._states, shape, rnn.dtype) or [None] * rnn._states):
            self._stepper.set_state(k, part)

    def prime(self, prompt_ids: ArrayLike) -> None:
        """Feed tokens: (n,) to all samples alike, or (n, num_samples)."""
        array = as_array("prompt_ids", prompt_ids)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"prompt_ids must be integers, got dtype {array.dtype}")
        if array.ndim not in (1, 2) or array.ndim == 2 and array.shape[1] != self._num_samples:
            raise ValueError(f"prompt_ids must have shape (n,) or (n, {self._num_samples}), got {array.shape}")
        tokens = as_tokens("prompt_ids", array, self._vocabulary)
        if tokens.ndim == 1:
            tokens = np.repeat(tokens[:, None], self._num_samples, axis=1)
        self._core.prime(tokens)

    def sample(
        self,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        start: int = 0,
    ) -> NDArray[np.int64]:
        """Draw the next `length` tokens of each sample, and feed them: (length, num_samples).

        Args:
            temperature: divides the logits; 0 takes the likeliest token (of equals the lowest).
            top_k: keep the k likeliest tokens.
            top_p: of those the fewest likeliest whose probabilities reach p, at least one.
            seed: None draws a fresh one.
            start: position of the first token. A token is a function of (seed, sample, position) and the state: drawing
                n and then m from position n is drawing n + m.

        Raises:
            FloatingPointError: the logits of a sample are not numbers to choose by (NaN or infinite).
        """
        ids: NDArray[np.int64] = self._core.sample(
            integer("length", length, 0),
            finite_from_zero("temperature", temperature),
            0 if top_k is None else min(integer("top_k", top_k, 1), self._vocabulary),
            1.0 if top_p is None else real("top_p", top_p, "a number in (0, 1]", lambda v: 0 < v <= 1),
            fresh_seed(seed),
            integer("start", start, 0, 2**63 - 1),
        )
        if ids.size and ids.min() < 0:
            position, sample = np.argwhere(ids < 0)[0]
            raise FloatingPointError(f"the logits of sample {sample} at position {start + position} are not finite")
        return ids
