"""The model under all estimators: [embedding ->] recurrent layers -> pooling -> dropout -> output layer."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._check import integer
from .._numbers import real
from ..dense import Dropout, Embedding, Linear
from ..layers import GRU, LSTM, RNN
from ..module import Module, parameter_dtype
from ..random import CounterRng, fresh_seed

__all__ = ["CELLS", "POOLINGS", "SequenceModel"]

Array: TypeAlias = NDArray[Any]
CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
POOLINGS = ("last", "mean", "max")


class _Cache(NamedTuple):
    embedding: Any
    drop_in: Any
    rnn: Any
    pooled: Any
    drop_out: Any
    output: Any


class SequenceModel(Module):
    """Sequences to one vector of outputs each, or to one for each step.

        x (T, B, C), or tokens (T, B)  ->  outputs (B, K);  with pooling None (T, B, K)

    Args:
        input_size: C, or the number of different tokens.
        output_size: K.
        hidden_size, num_layers, bidirectional, nonlinearity, dtype, compute_dtype: as for the recurrent layers.
        cell: "lstm", "gru" or "rnn".
        embedding_size: feed tokens as learnt vectors of this size; None, the default, feeds them as one-hot rows.
        pooling: what the output layer sees. "last": the last layer's final state, of both directions where there are
            two; "mean", "max": of its outputs over the steps; None: its output at each step.
        dropout: on the embedding's output, between the layers and on what the output layer sees.
        seed: draws the weights and keys dropout; None draws a fresh one, recorded in `config`.

    `rng` counts the steps of dropout.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        bidirectional: bool = False,
        embedding_size: int | None = None,
        pooling: str | None = "last",
        dropout: float = 0.0,
        nonlinearity: str = "tanh",
        dtype: str = "float32",
        compute_dtype: str | None = None,
        seed: int | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling must be None or one of {', '.join(POOLINGS)}, got {pooling!r}")
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.pooling, self.dtype, seed = pooling, parameter_dtype(dtype), fresh_seed(seed)
        dropout = real("dropout", dropout, "a number in [0, 1)", lambda p: 0 <= p < 1)
        super().__init__({**config, "dropout": dropout, "dtype": self.dtype.name, "seed": seed})
        self.rng = CounterRng(seed)
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(3, np.uint64)]  # one for each part
        self.embedding = None
        if embedding_size is not None:
            self.embedding = Embedding(input_size, embedding_size, dtype=dtype, seed=seeds[0])
            self._adopt("embedding", self.embedding)
        self.rnn = CELLS[cell](
            input_size if embedding_size is None else embedding_size,
            integer("hidden_size", hidden_size, 1),
            num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            dtype=dtype,
            compute_dtype=compute_dtype,
            seed=seeds[1],
            **({"nonlinearity": nonlinearity} if cell == "rnn" else {}),
        )
        self.output = Linear(self.rnn.num_directions * hidden_size, output_size, dtype=dtype, seed=seeds[2])
        self._adopt("rnn", self.rnn)
        self._adopt("output", self.output)
        self.drop_in = Dropout(dropout, seed=seed, index=0)  # used where there is an embedding
        self.drop_out = Dropout(dropout, seed=seed, index=1)

    def __call__(self, x: ArrayLike, *, lengths: ArrayLike | None = None) -> Array:
        """Outputs; no dropout. A sequence's are the same bits whatever is beside it and however it is padded."""
        x = x if self.embedding is None else self.embedding(x)
        y, state = self.rnn(x, lengths=lengths)
        outputs: Array = self.output(self._pool(y, state, lengths)[0])
        return outputs

    def forward(
        self, x: ArrayLike, *, lengths: ArrayLike | None = None, training: bool = True, rng: CounterRng | None = None
    ) -> tuple[Array, Any]:
        """As a call, with dropout, and with the cache that backward needs; `rng` moves on by T steps."""
        rng = self.rng if rng is None else rng
        # Every dropout of these T steps starts from the same step; their streams differ.
        embedding = drop_in = None
        if self.embedding is not None:
            x, embedding = self.embedding.forward(x)
            x, drop_in = self.drop_in.forward(x, training=training, rng=copy(rng))
        y, state, rnn = self.rnn.forward(x, lengths=lengths, training=training, rng=copy(rng))
        features, pooled = self._pool(y, state, lengths)
        steps = features.reshape(-1, *features.shape[-2:])  # (1, B, n) if pooled
        dropped, drop_out = self.drop_out.forward(steps, training=training, rng=copy(rng))
        outputs, output = self.output.forward(dropped.reshape(features.shape))
        if training:
            rng.step += len(y)
        return outputs, _Cache(embedding, drop_in, rnn, pooled, drop_out, output)

    def backward(self, doutputs: Array, cache: Any) -> None:
        """The mirror of forward: adds into grads."""
        dfeatures = self.output.backward(doutputs, cache.output)
        steps = dfeatures.reshape(-1, *dfeatures.shape[-2:])
        dfeatures = self.drop_out.backward(steps, cache.drop_out).reshape(dfeatures.shape)
        dy, dstate = self._unpool(dfeatures, cache.pooled)
        dx, _ = self.rnn.backward(dy, dstate, cache.rnn, want_dx=self.embedding is not None, want_dstate0=False)
        if self.embedding is not None:
            self.embedding.backward(self.drop_in.backward(dx, cache.drop_in), cache.embedding)

    def _pool(self, y: Array, state: Any, lengths: ArrayLike | None) -> tuple[Array, Any]:
        """(what the output layer sees, what _unpool needs) of outputs y (T, B, n)."""
        steps, batch = y.shape[:2]
        ends = np.full(batch, steps) if lengths is None else np.asarray(lengths)
        if self.pooling == "last":
            h = state[0] if isinstance(state, tuple) else state
            return np.concatenate(h[-self.rnn.num_directions :], axis=-1), h.shape
        if self.pooling == "mean":
            total = np.zeros_like(y[0])
            for step in y:  # in this order whatever the batch: sum() has several
                total += step
            counts = np.maximum(ends, 1).astype(self.dtype)[:, None]
            return total / counts, (y.shape, counts)
        if self.pooling == "max":
            seen = np.where((np.arange(steps)[:, None] < ends)[:, :, None], y, -np.inf)
            best = seen.argmax(axis=0)[None]
            return np.take_along_axis(y, best, axis=0)[0], (y.shape, best)
        return y, None

    def _unpool(self, dfeatures: Array, pooled: Any) -> tuple[Array | None, Any]:
        """(dy, dstate)"""
        if self.pooling == "last":
            dh = np.zeros(pooled, self.dtype)
            dh[-self.rnn.num_directions :] = np.stack(np.split(dfeatures, self.rnn.num_directions, axis=-1))
            return None, (dh, None) if self.rnn._states > 1 else dh
        if self.pooling == "mean":
            shape, counts = pooled
            return np.broadcast_to(dfeatures / counts, shape), None
        if self.pooling == "max":
            shape, best = pooled
            dy = np.zeros(shape, self.dtype)
            np.put_along_axis(dy, best, dfeatures[None], axis=0)
            return dy, None
        return dfeatures, None

    def _extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.state_dict()}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.load_state_dict(state["rng"])
