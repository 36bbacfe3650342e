"""Decoder: from a state, or any fixed vector, into a sequence; alone (one to many), or behind an encoder.

    [end, y_1 .. y_n]  --recurrence-->  h  [--attention-->]  features  --output layer, loss-->  [y_1 .. y_n, end]

The end is the last of V + 1 classes: as an input it stands for the beginning, as an output for the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core, ops
from .._inputs import as_array, check_state
from .._threads import get_num_threads
from ..dense import Dropout, Embedding, Linear
from ..random import CounterRng
from .attention import Attention
from .base import Beginning, SequenceGenerator, Targets, read_numbers
from .encoder import Encoder, arguments, as_state, parts_of

__all__ = ["Decoder"]

Array = NDArray[Any]
State = Any


class _Cache(NamedTuple):
    read: Targets
    reader: Any
    attention: Any
    drop: Any


class Decoder(SequenceGenerator):
    """Generates sequences of tokens 0 .. V - 1.

    Alone it turns vectors into sequences: train_step(vectors, targets, optimizer), evaluate, generate(vectors), see
    SequenceGenerator; vectors are (B, vector_size) numbers. The state that it begins with is tanh(W vector + b).
    Without vector_size it begins with a state that is given: (L, B, H), for an LSTM a pair (h, c).

    Args:
        vocab_size: V.
        hidden_size: H.
        num_layers: L.
        cell, nonlinearity, embedding_size, dropout, dtype, compute_dtype: as for Encoder; dropout also of the features
            that the output layer reads.
        attention: None, "dot", "general" or "additive": see Attention. It needs a memory, so an encoder.
        memory_size: width of the memory's steps.
        attention_size: width of additive scores; None: H.
        vector_size: width of the vectors that sequences are made from; None: of a state.
        embedding: an Embedding of at least V + 1 rows to share, instead of one of its own.
        seed: draws the weights and keys dropout; None draws a fresh one.

    Parameters: embedding.weight (V + 1, N), rnn.*, attention.*, bridge.weight and .bias, output.weight (V + 1, H) and
    .bias.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        nonlinearity: str = "tanh",
        embedding_size: int | None = None,
        dropout: float = 0.0,
        attention: str | None = None,
        memory_size: int | None = None,
        attention_size: int | None = None,
        vector_size: int | None = None,
        embedding: Embedding | None = None,
        dtype: Any = "float32",
        compute_dtype: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = arguments(locals())
        for name in ("memory_size", "attention_size"):
            if attention is None and name in config:
                raise ValueError(f"{name} must be None without attention, got {config[name]}")
        if attention is not None and memory_size is None:
            raise ValueError(f"memory_size must be given with attention {attention!r}, got None")
        super().__init__(config, config["seed"])
        self.vocab_size, hidden_size, num_layers = (config[n] for n in ("vocab_size", "hidden_size", "num_layers"))
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(config["seed"]).generate_state(4, np.uint64)]
        self._reader = Encoder(
            self.vocab_size + 1,
            hidden_size,
            num_layers,
            cell=cell,
            nonlinearity=nonlinearity,
            embedding_size=embedding_size,
            dropout=dropout,
            embedding=embedding,
            dtype=dtype,
            compute_dtype=compute_dtype,
            seed=seeds[0],
        )
        self.embedding, self.rnn, self.dtype = self._reader.embedding, self._reader.rnn, self._reader.dtype
        self.attention = None
        if attention is not None:
            self.attention = Attention(
                attention, hidden_size, memory_size or 0, attention_size=attention_size, dtype=dtype, seed=seeds[1]
            )
        self.vector_size, self.bridge = config.get("vector_size"), None
        if vector_size is not None:
            states = self.rnn._states * self.rnn.num_layers * self.rnn.hidden_size
            self.bridge = Linear(vector_size, states, dtype=dtype, seed=seeds[2])
        self.output = Linear(hidden_size, self.vocab_size + 1, dtype=dtype, seed=seeds[3])
        self.drop = Dropout(dropout, seed=seeds[0], index=1)
        for name in ("embedding", "rnn", "attention", "bridge", "output"):
            part = getattr(self, name)
            if part is not None:
                self._adopt(name, part)

    @property
    def decoder(self) -> Decoder:
        return self

    @property
    def end(self) -> int:
        """The class behind the tokens."""
        return self.vocab_size

    # --- One pass over known targets ---

    def features(self, read: Targets, begin: Beginning) -> Array:
        """What the output layer reads (N, H) at each of the N inputs that count, without dropout."""
        h, _ = self._reader(read.inputs, begin.state, read.lengths)
        return (
            h[read.where] if self.attention is None else self.attention(h, begin.memory, begin.lengths, read.where)[0]
        )

    def forward_features(self, read: Targets, begin: Beginning, *, training: bool, step: int) -> tuple[Array, Any]:
        """As features, with dropout where `training`, and with the cache for backward_features."""
        h, _, reader = self._reader.forward(read.inputs, begin.state, read.lengths, training=training, step=step)
        attention = None
        if self.attention is None:
            features = h[read.where]
        else:
            features, _, attention = self.attention.forward(h, begin.memory, begin.lengths, read.where)
        features, drop = self.drop.forward(features, training=training, rng=CounterRng(self._reader.seed, step))
        return features, _Cache(read, reader, attention, drop)

    def backward_features(self, dfeatures: Array, cache: _Cache) -> tuple[State, Array | None]:
        """(gradient of the state that it began with, gradient of the memory or None); adds into `grads`."""
        d, dmemory = self.drop.backward(dfeatures, cache.drop), None
        if self.attention is None:
            dh = cache.read.padded(d)
        else:
            dh, dmemory = self.attention.backward(d, cache.attention)
        return self._reader.backward(dh, None, cache.reader), dmemory

    def loss(
        self,
        features: Array,
        labels: Array,
        *,
        label_smoothing: float = 0.0,
        gradient: bool = True,
        reduction: str = "mean",
    ) -> tuple[Any, Array | None]:
        """Cross-entropy of the labels (N,), and with `gradient` that of the features (N, H); the output layer's goes
        into `grads`."""
        params, grads = self.output.held, self.output.grads
        loss, dfeatures = ops.linear_cross_entropy(
            features,
            params["weight"],
            params["bias"],
            labels,
            dweight=grads["weight"] if gradient else None,
            dbias=grads["bias"] if gradient else None,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        return loss, dfeatures

    # --- The state from a vector ---

    def state_of(self, vectors: Array, keep: bool) -> tuple[State, Any]:
        """tanh(W vector + b) as the state of all layers, and with `keep` the cache for state_backward."""
        assert self.bridge is not None
        y, cache = self.bridge.forward(vectors) if keep else (self.bridge(vectors), None)
        flat = _core.tanh(y, get_num_threads())
        layers, hidden = self.rnn.num_layers, self.rnn.hidden_size
        parts = flat.reshape(len(flat), self.rnn._states, layers, hidden).transpose(1, 2, 0, 3)
        return as_state([np.ascontiguousarray(p) for p in parts]), (flat, cache)

    def state_backward(self, dstate: State, cache: Any) -> Array:
        """The gradient of the vectors."""
        assert self.bridge is not None
        flat, linear = cache
        dflat = np.stack(parts_of(dstate)).transpose(2, 0, 1, 3).reshape(flat.shape)
        return self.bridge.backward(dflat * (1 - flat * flat), linear)

    # --- Alone ---

    def _read(self, condition: Any) -> Any:
        if self.bridge is None:
            first = condition[0] if isinstance(condition, tuple | list) and len(condition) else condition
            rows = np.shape(first)[1] if np.ndim(first) == 3 else 0  # of another shape: check_state says so
            shape = (self.rnn.num_layers, rows, self.rnn.hidden_size)
            parts = check_state("state", condition, self.rnn._states, shape, self.dtype)
            if not parts or any(part is None for part in parts):
                expected = "one array" if self.rnn._states == 1 else "a pair (h, c)"
                raise TypeError(f"state must be {expected} for a Decoder without vector_size, got None")
            return tuple(parts)
        array = as_array("vectors", condition)
        if array.ndim != 2 or array.shape[1] != self.vector_size:
            raise ValueError(f"vectors must have shape (B, {self.vector_size}), got {array.shape}")
        return read_numbers("vectors", array, self.dtype)

    def _rows(self, condition: Any) -> int:
        return len(condition) if self.bridge is not None else int(condition[0].shape[1])

    def _take(self, condition: Any, indices: Sequence[int] | NDArray[np.intp]) -> Any:
        if self.bridge is not None:
            return condition[indices]
        return tuple(np.ascontiguousarray(part[:, indices]) for part in condition)

    def _begin(self, condition: Any, *, training: bool, step: int, keep: bool) -> tuple[Beginning, Any]:
        if self.attention is not None:
            raise ValueError(f"a Decoder alone has nothing to attend to, got attention {self.attention.kind!r}")
        if self.bridge is None:
            return Beginning(as_state(condition), None, None), None
        state, cache = self.state_of(condition, keep)
        return Beginning(state, None, None), cache

    def _begin_backward(self, dstate: State, dmemory: Array | None, cache: Any) -> None:
        if self.bridge is not None:
            self.state_backward(dstate, cache)
