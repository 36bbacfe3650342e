"""Seq2Seq: an encoder reads a sequence of any length, a decoder makes another one of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._inputs import as_array
from ..batches import pad
from ..dense import Embedding
from ..lm.tokenizer import Tokenizer
from .base import Beginning, SequenceGenerator, read_numbers, read_tokens
from .data import encode
from .decoder import Decoder
from .encoder import Encoder, arguments, as_state, parts_of

__all__ = ["Seq2Seq"]

Array = NDArray[Any]
State = Any


class Seq2Seq(SequenceGenerator):
    """Sequences into sequences: see SequenceGenerator for training, evaluation and search.

    Sources are a list of sequences of tokens 0 .. source_size - 1; or, where `embedding_size` is None, of numbers
    (n, source_size). Each has at least one step.

    Args:
        source_size: number of different source tokens, or numbers in a step.
        target_size: V, number of different target tokens.
        hidden_size: H, the decoder's.
        num_layers: of the decoder, and of the encoder unless `encoder_layers` says something else.
        cell, nonlinearity, dropout, dtype, compute_dtype: as for Encoder and Decoder.
        embedding_size: width of learnt vectors of tokens; None feeds them as one-hot rows.
        bidirectional: whether the encoder has two directions.
        encoder_size: units of a direction of the encoder; None: H divided by its directions.
        attention: None hands over the state alone (Sutskever et al. 2014); "dot" and "general" (Luong et al. 2015),
            "additive" (Bahdanau et al. 2015): the decoder also looks at the outputs of all steps.
        attention_size: width of additive scores; None: H.
        bridge: False: layer l of the decoder begins with the state of the encoder's layer l, both directions side by
            side, so these must fit. True: with tanh(W s + b), s all final states of the encoder.
        share_embeddings: source and target are of one vocabulary (source_size = target_size) with one embedding.
        seed: draws the weights and keys dropout; None draws a fresh one.

    `config` holds the arguments: Seq2Seq(**config) is the same model, untrained. `tokenizers`, a pair, or None, turn
    text into tokens for `translate`.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        nonlinearity: str = "tanh",
        embedding_size: int | None = None,
        bidirectional: bool = False,
        encoder_size: int | None = None,
        encoder_layers: int | None = None,
        attention: str | None = None,
        attention_size: int | None = None,
        bridge: bool = False,
        share_embeddings: bool = False,
        dropout: float = 0.0,
        dtype: Any = "float32",
        compute_dtype: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = arguments(locals())
        super().__init__(config, config["seed"])
        sizes = (config[n] for n in ("source_size", "target_size", "hidden_size", "num_layers"))
        self.source_size, target_size, hidden_size, num_layers = sizes
        directions = 2 if bidirectional else 1
        if encoder_size is None and hidden_size % directions:
            raise ValueError(
                f"hidden_size must be even for a bidirectional encoder without encoder_size, got {hidden_size}"
            )
        if share_embeddings and (embedding_size is None or source_size != target_size):
            raise ValueError(
                "share_embeddings needs an embedding_size and source_size == target_size, got "
                f"{embedding_size}, {source_size} and {target_size}"
            )
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(config["seed"]).generate_state(3, np.uint64)]
        same: dict[str, Any] = {
            "cell": cell,
            "nonlinearity": nonlinearity,
            "embedding_size": embedding_size,
            "embedding": Embedding(target_size + 1, embedding_size or 1, dtype=dtype, seed=seeds[2])
            if share_embeddings
            else None,
            "dropout": dropout,
            "dtype": dtype,
            "compute_dtype": compute_dtype,
        }
        self.encoder = Encoder(
            source_size,
            hidden_size // directions if encoder_size is None else encoder_size,
            num_layers if encoder_layers is None else encoder_layers,
            bidirectional=bidirectional,
            seed=seeds[0],
            **same,
        )
        rnn = self.encoder.rnn
        width = rnn._states * rnn.num_layers * self.encoder.output_size
        self._decoder = Decoder(
            target_size,
            hidden_size,
            num_layers,
            attention=attention,
            memory_size=None if attention is None else self.encoder.output_size,
            attention_size=attention_size,
            vector_size=width if bridge else None,
            seed=seeds[1],
            **same,
        )
        if not bridge and (rnn.num_layers != num_layers or self.encoder.output_size != hidden_size):
            raise ValueError(
                f"without a bridge the encoder's state must fit the decoder's {num_layers} layers of {hidden_size}, "
                f"got {rnn.num_layers} of {self.encoder.output_size}: set bridge=True"
            )
        self.tokenizers: tuple[Tokenizer, Tokenizer] | None = None
        self._adopt("encoder", self.encoder)
        self._adopt("decoder", self._decoder)
        if share_embeddings:
            del self.params["encoder.embedding.weight"], self.grads["encoder.embedding.weight"]

    @property
    def decoder(self) -> Decoder:
        return self._decoder

    # --- From sources to what the decoder begins with ---

    def _begin(self, condition: Any, *, training: bool, step: int, keep: bool) -> tuple[Beginning, Any]:
        x, lengths = pad(condition)
        cache = None
        if keep:
            memory, state, cache = self.encoder.forward(x, None, lengths, training=training, step=step)
        else:
            memory, state = self.encoder(x, None, lengths)
        state = self._joined(state)
        bridge = None
        if self.decoder.bridge is not None:
            vectors = np.concatenate([p.transpose(1, 0, 2).reshape(len(lengths), -1) for p in parts_of(state)], axis=1)
            state, bridge = self.decoder.state_of(vectors, keep)
        attends = self.decoder.attention is not None
        return Beginning(state, memory if attends else None, lengths if attends else None, len(x)), (cache, bridge)

    def _begin_backward(self, dstate: State, dmemory: Array | None, cache: Any) -> None:
        encoder_cache, bridge = cache
        rnn = self.encoder.rnn
        if bridge is not None:
            dvectors = self.decoder.state_backward(dstate, bridge)
            parts = dvectors.reshape(len(dvectors), rnn._states, rnn.num_layers, self.encoder.output_size)
            dstate = as_state([*parts.transpose(1, 2, 0, 3)])
        self.encoder.backward(dmemory, self._apart(dstate), encoder_cache, want_dstate0=False)

    def _joined(self, state: State) -> State:
        """(L * D, B, H) to (L, B, D * H): both directions of a layer side by side."""
        rnn = self.encoder.rnn
        if rnn.num_directions == 1:
            return state
        layers, d, h = rnn.num_layers, rnn.num_directions, rnn.hidden_size
        return as_state(
            [p.reshape(layers, d, -1, h).transpose(0, 2, 1, 3).reshape(layers, -1, d * h) for p in parts_of(state)]
        )

    def _apart(self, state: State) -> State:
        """The mirror of _joined."""
        rnn = self.encoder.rnn
        layers, d, h = rnn.num_layers, rnn.num_directions, rnn.hidden_size
        return as_state(
            [p.reshape(layers, -1, d, h).transpose(0, 2, 1, 3).reshape(layers * d, -1, h) for p in parts_of(state)]
        )

    def _read(self, condition: Any) -> list[Array]:
        if isinstance(condition, str) or not isinstance(condition, Sequence):
            raise TypeError(f"sources must be a list of sequences, got {type(condition).__name__}")
        read = [self._source(f"sources[{i}]", source) for i, source in enumerate(condition)]
        if len({a.ndim for a in read}) > 1:
            raise TypeError("sources must be all of tokens or all of numbers, got both")
        return read

    def _source(self, name: str, source: Any) -> Array:
        if isinstance(source, str) or not hasattr(source, "__len__"):
            raise TypeError(f"{name} must be a sequence of tokens or numbers, got {source!r}")
        if len(source) == 0:
            raise ValueError(f"{name} must have at least one step, got none")
        array = as_array(name, source)
        if array.dtype.kind in "iu" and (array.ndim != 2 or self.encoder.embedding is not None):
            return read_tokens(name, array, self.source_size)
        if self.encoder.embedding is not None:
            raise TypeError(f"{name} must be integers for a model with an embedding, got dtype {array.dtype}")
        if array.ndim != 2 or array.shape[1] != self.source_size:
            raise ValueError(f"{name} must have shape (n, {self.source_size}), got {array.shape}")
        return read_numbers(name, array, self.encoder.dtype)

    def _rows(self, condition: Any) -> int:
        return len(condition)

    def _take(self, condition: Any, indices: Any) -> Any:
        return [condition[i] for i in indices]

    def _lengths(self, condition: Any) -> NDArray[np.int64]:
        return np.array([len(s) for s in condition], np.int64)

    # --- Text ---

    def translate(self, texts: Sequence[str], **options: Any) -> list[str]:
        """The best translation of each text. Options are those of `generate` but for n_best and attention; needs
        `tokenizers`."""
        if self.tokenizers is None:
            raise ValueError("translate needs tokenizers: set model.tokenizers, got None")
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts, got the text {texts!r}")
        for name in ("n_best", "attention"):
            if name in options:
                raise TypeError(f"{name} is of generate: translate gives the best text alone, got {options[name]!r}")
        source, target = self.tokenizers
        sources = encode([(text, f"texts[{i}]") for i, text in enumerate(texts)], source)
        found = self.generate(sources, **options)
        return [target.decode(hypotheses[0].tokens) for hypotheses in found]

    def _extra_state(self) -> dict[str, Any]:
        return {**super()._extra_state(), "tokenizers": self.tokenizers}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        super()._load_extra_state(state)
        self.tokenizers = state["tokenizers"]
