"""Attention over an encoder's outputs, behind the decoder's recurrence.

    score(t, s) of h_t and m_s      dot: h . m      general: h . W m      additive: v . tanh(Q h + W m)
    context_t = sum of softmax(score(t, :)) m       features_t = tanh(J [context_t; h_t])

This is Luong's order (Luong, Pham & Manning 2015, "global attention"): h_t does not depend on the contexts before it,
so that all steps of a known target are one call of the recurrent layers and one of `ops.attention`. Additive scores are
those of Bahdanau, Cho & Bengio 2015.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core, ops
from .._check import integer
from .._threads import get_num_threads
from ..dense import Linear
from ..module import Module, parameter_dtype
from ..random import fresh_seed

__all__ = ["KINDS", "Attention"]

Array = NDArray[Any]
KINDS = ("dot", "general", "additive")


def _before(lengths: Any, memory: Array) -> Any:
    """(S, B): the steps of the memory that count, or None where all do."""
    return None if lengths is None else np.arange(len(memory))[:, None] < np.asarray(lengths)


class _Cache(NamedTuple):
    query: Array
    keys: Array
    memory: Array
    lengths: Any
    weights: Array
    features: Array
    where: Any
    linear: tuple[Any, Any, Any]  # the caches of query, keys, joined


class Attention(Module):
    """Of a decoder's outputs h (T, B, H) and a memory (S, B, E): features (T, B, H) and weights (T, B, S).

    Args:
        kind: "dot" (E must be H), "general" or "additive".
        hidden_size: H.
        memory_size: E.
        attention_size: width of additive scores; None: H.
        dtype: "float32" or "float64".
        seed: draws the weights as Linear does; None draws a fresh one.

    Parameters: joined.weight (H, E + H); general: keys.weight (H, E); additive: keys.weight (A, E), query.weight (A, H)
    and v (A).
    """

    def __init__(
        self,
        kind: str,
        hidden_size: int,
        memory_size: int,
        *,
        attention_size: int | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"attention must be one of {', '.join(KINDS)} or None, got {kind!r}")
        self.kind = kind
        self.hidden_size = hidden_size = integer("hidden_size", hidden_size, 1)
        self.memory_size = memory_size = integer("memory_size", memory_size, 1)
        if kind == "dot" and hidden_size != memory_size:
            raise ValueError(
                f"dot attention needs outputs of the encoder as wide as the decoder's hidden_size {hidden_size}, "
                f"got {memory_size}: take attention 'general' or another encoder_size"
            )
        if attention_size is not None and kind != "additive":
            raise ValueError(f"attention_size is of additive attention, got {attention_size} for {kind!r}")
        width = hidden_size if attention_size is None else integer("attention_size", attention_size, 1)
        self.dtype, self.seed = parameter_dtype(dtype), fresh_seed(seed)
        super().__init__(
            {
                "kind": kind,
                "hidden_size": self.hidden_size,
                "memory_size": self.memory_size,
                "attention_size": None if attention_size is None else width,
                "dtype": self.dtype.name,
                "seed": self.seed,
            }
        )
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(self.seed).generate_state(4, np.uint64)]

        def linear(i: int, inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, bias=False, dtype=self.dtype, seed=seeds[i])

        self.joined = linear(0, memory_size + hidden_size, hidden_size)
        self.keys = linear(1, memory_size, width) if kind != "dot" else None
        self.query = linear(2, hidden_size, width) if kind == "additive" else None
        for name, part in (("joined", self.joined), ("keys", self.keys), ("query", self.query)):
            if part is not None:
                self._adopt(name, part)
        if kind == "additive":
            bound = 1 / np.sqrt(width)
            generator = np.random.Generator(np.random.PCG64(seeds[3]))
            self._register("v", generator.uniform(-bound, bound, width).astype(self.dtype))

    def __call__(self, h: Array, memory: Array, lengths: Any = None, where: Any = ...) -> tuple[Array, Array]:
        """(features (T, B, H), weights (T, B, S)); steps of the memory behind `lengths` (B,) have no weight.

        `where` (T, B) booleans picks the steps whose features are wanted; they come as rows (N, H), in order of time.
        """
        query = h if self.query is None else self.query(h)
        keys = self.memory_keys(memory, lengths)
        context, weights = ops.attention(query, keys, memory, lengths, self.v)
        return self._tanh(self.joined(np.concatenate([context[where], h[where]], axis=-1))), weights

    @property
    def v(self) -> Array | None:
        """Of additive scores: as inference goes by it, a copy since freeze()."""
        v: Array | None = (self.params if self._frozen is None else self._frozen).get("v")
        return v

    def freeze(self) -> None:
        super().freeze()
        self._frozen = {name: array.copy() for name, array in self.params.items() if name == "v"}

    def memory_keys(self, memory: Array, lengths: Any = None) -> Array:
        """What queries meet: (S, B, width)."""
        return memory if self.keys is None else self.keys(memory, where=_before(lengths, memory))

    def forward(self, h: Array, memory: Array, lengths: Any = None, where: Any = ...) -> tuple[Array, Array, Any]:
        """As a call, and with the cache for backward, which holds on to h and memory: do not write to them."""
        query, query_cache = (h, None) if self.query is None else self.query.forward(h, copy=False)
        keys, keys_cache = memory, None
        if self.keys is not None:
            keys, keys_cache = self.keys.forward(memory, copy=False, where=_before(lengths, memory))
        context, weights = ops.attention(query, keys, memory, lengths, self.params.get("v"))
        y, joined_cache = self.joined.forward(np.concatenate([context[where], h[where]], axis=-1), copy=False)
        features = self._tanh(y)
        linear = (query_cache, keys_cache, joined_cache)
        return features, weights, _Cache(query, keys, memory, lengths, weights, features, where, linear)

    def backward(self, dfeatures: Array, cache: _Cache) -> tuple[Array, Array]:
        """(dh, dmemory); the parameters' gradients are added to `grads`."""
        c = cache
        d = c.features * c.features
        np.subtract(1, d, out=d)
        djoined = self.joined.backward(np.multiply(d, dfeatures, out=d), c.linear[2])
        steps, batch = c.query.shape[:2]
        dcontext, dh = (np.zeros((steps, batch, n), d.dtype) for n in (self.memory_size, self.hidden_size))
        dcontext[c.where], dh[c.where] = djoined[..., : self.memory_size], djoined[..., self.memory_size :]
        dquery, dkeys, dmemory, dv = ops.attention_backward(
            dcontext, c.weights, c.query, c.keys, c.memory, c.lengths, self.params.get("v")
        )
        if dv is not None:
            self.grads["v"] += dv
        dh += dquery if self.query is None else self.query.backward(dquery, c.linear[0])
        dmemory += dkeys if self.keys is None else self.keys.backward(dkeys, c.linear[1])
        return dh, dmemory

    def _tanh(self, x: Array) -> Array:
        return _core.tanh(x, get_num_threads())  # the kernels', so that a search sees the very same features
