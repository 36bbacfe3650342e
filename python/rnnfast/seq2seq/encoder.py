"""Encoder: sequences of any length into a state, and an output a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._check import boolean, integer
from .._numbers import real
from ..dense import Dropout, Embedding
from ..layers import GRU, LSTM, RNN
from ..module import Module, compute_dtype_name, parameter_dtype
from ..random import CounterRng, fresh_seed

__all__ = ["Encoder", "arguments", "as_state", "parts_of"]

Array = NDArray[Any]
State = Any


# None of these means something; no other argument may be None but seed.
_OPTIONAL = (
    *("embedding_size", "encoder_size", "encoder_layers", "memory_size", "attention_size", "vector_size"),
    *("attention", "compute_dtype"),
)
_FLAGS = ("bidirectional", "bridge", "share_embeddings")


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The config of a model from its constructor's locals: arguments of a name are checked alike, numbers are Python's
    (a config goes into JSON), and those that are None left out."""
    hidden = ("self", "__class__", "embedding")
    config = {k: v for k, v in given.items() if k not in hidden and not (v is None and k in _OPTIONAL)}
    for name, value in config.items():
        if name.endswith(("_size", "_layers")):
            config[name] = integer(name, value, 1)
        elif name in _FLAGS:
            config[name] = boolean(name, value)
    cell, nonlinearity = config["cell"], config["nonlinearity"]
    if cell not in ("lstm", "gru", "rnn"):
        raise ValueError(f"cell must be 'lstm', 'gru' or 'rnn', got {cell!r}")
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    if nonlinearity != "tanh" and cell != "rnn":
        raise ValueError(f"nonlinearity must be 'tanh' for cell {cell!r}, got {nonlinearity!r}")
    dtype = parameter_dtype(config["dtype"])
    config["dropout"] = real("dropout", config["dropout"], "a number in [0, 1)", lambda p: 0 <= p < 1)
    config["dtype"], config["seed"] = dtype.name, fresh_seed(config["seed"])
    if "compute_dtype" in config:
        config["compute_dtype"] = compute_dtype_name(config["compute_dtype"], dtype)
    return config


def parts_of(state: State) -> tuple[Array, ...]:
    """A state's arrays: h, or h and c."""
    return tuple(state) if isinstance(state, tuple) else (state,)


def as_state(parts: Sequence[Array]) -> State:
    """The mirror of parts_of."""
    return tuple(parts) if len(parts) > 1 else parts[0]


class _Cache(NamedTuple):
    embedding: Any
    drop: Any
    rnn: Any


class Encoder(Module):
    """[Embedding, dropout ->] RNN, LSTM or GRU over padded sequences. A decoder's recurrence is one of these, too.

    Args:
        input_size: number of different tokens; or, for sequences of numbers, how many a step has.
        hidden_size: H, of each direction.
        num_layers: L.
        cell: "lstm", "gru" or "rnn" (with `nonlinearity` "tanh" or "relu").
        embedding_size: width of learnt vectors of tokens; None feeds them as one-hot rows, or takes numbers.
        bidirectional: a second direction, whose outputs and states stand beside the first's.
        dropout: of the embedding's outputs and between layers.
        embedding: an Embedding of at least input_size rows to share, instead of one of its own.
        dtype, compute_dtype, seed: as for the recurrent layers.

    Parameters: embedding.weight, and the recurrent layers' under "rnn.".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        nonlinearity: str = "tanh",
        embedding_size: int | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
        embedding: Embedding | None = None,
        dtype: Any = "float32",
        compute_dtype: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = arguments(locals())
        super().__init__(config)
        self.input_size, self.dtype, self.seed = config["input_size"], np.dtype(config["dtype"]), config["seed"]
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(self.seed).generate_state(2, np.uint64)]
        self.embedding = embedding
        if embedding is not None:
            self._check_shared(embedding, embedding_size)
        elif embedding_size is not None:
            self.embedding = Embedding(input_size, embedding_size, dtype=self.dtype, seed=seeds[0])
        self.drop = Dropout(dropout, seed=self.seed, index=0)
        make: Any = {"rnn": RNN, "lstm": LSTM, "gru": GRU}[cell]
        extra = {"nonlinearity": nonlinearity} if cell == "rnn" else {}
        self.rnn = make(
            input_size if self.embedding is None else self.embedding.embedding_dim,
            hidden_size,
            num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            dtype=self.dtype,
            compute_dtype=compute_dtype,
            seed=seeds[1],
            **extra,
        )
        if self.embedding is not None:
            self._adopt("embedding", self.embedding)
        self._adopt("rnn", self.rnn)

    def _check_shared(self, embedding: Any, width: int | None) -> None:
        of = "" if width is None else f" of {width} numbers"
        expected = f"embedding must be an Embedding of at least {self.input_size} rows{of} in {self.dtype}"
        if not isinstance(embedding, Embedding):
            raise TypeError(f"{expected}, got {embedding!r}")
        fits = embedding.embedding_dim == width or width is None
        if not fits or embedding.num_embeddings < self.input_size or embedding.dtype != self.dtype:
            raise ValueError(f"{expected}, got {embedding!r}")
        if embedding.device is not None:
            raise ValueError(f"{expected} on the CPU, got {embedding!r}")

    @property
    def output_size(self) -> int:
        """Numbers of an output: D * H."""
        return int(self.rnn.num_directions * self.rnn.hidden_size)

    def __call__(self, x: Array, state: State = None, lengths: Any = None) -> tuple[Array, State]:
        """Outputs (T, B, D * H), zero behind `lengths` (B,), and the final state: x is (T, B) tokens or (T, B, I)."""
        result: tuple[Array, State] = self.rnn(
            x if self.embedding is None else self.embedding(x), state, lengths=lengths
        )
        return result

    def forward(
        self, x: Array, state: State = None, lengths: Any = None, *, training: bool = True, step: int = 0
    ) -> tuple[Array, State, Any]:
        """As a call, and with the cache for backward. Dropout is that of `step` and the encoder's seed."""
        embedding = drop = None
        if self.embedding is not None:
            x, embedding = self.embedding.forward(x)
            x, drop = self.drop.forward(x, training=training, rng=CounterRng(self.seed, step))
        rng = CounterRng(self.seed, step)
        y, state, rnn = self.rnn.forward(x, state, lengths=lengths, training=training, rng=rng)
        return y, state, _Cache(embedding, drop, rnn)

    def backward(self, dy: Array | None, dstate: State, cache: _Cache, *, want_dstate0: bool = True) -> State:
        """The gradient of the initial state; those of the parameters are added to `grads`."""
        dx, dstate0 = self.rnn.backward(
            dy, dstate, cache.rnn, want_dx=self.embedding is not None, want_dstate0=want_dstate0
        )
        if self.embedding is not None:
            self.embedding.backward(self.drop.backward(dx, cache.drop), cache.embedding)
        return dstate0
