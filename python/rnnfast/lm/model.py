"""The recurrent language model: [embedding ->] RNN, LSTM or GRU -> output layer, trained to predict the next token.

    tokens (T+1, B)  --x = tokens[:-1]-->  features (T, B, H)  --output layer + loss, fused-->  loss of tokens[1:]

Dropout sits on the embedding's output, between the layers and on the last layer's output. With tied weights the
output layer's weight is the embedding's: one array, `params["embedding.weight"]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import cuda, ops
from .._check import MOST_LAYERS, MOST_TOKENS, boolean, integer
from .._cuda_dense import tokens_on_device
from .._inputs import as_array, as_tokens
from .._numbers import real
from ..dense import Dropout, Embedding, Linear
from ..layers import GRU, LSTM, RNN
from ..module import Module, compute_dtype_name, parameter_dtype
from ..random import CounterRng, fresh_seed
from ..train import update
from .evaluate import evaluate_text
from .tokenizer import Tokenizer

__all__ = ["LanguageModel", "evaluate_text"]

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Any  # the recurrent layers': (h, c) of the LSTM, else h, each (layers, B, H); None is zeros


class _Cache(NamedTuple):
    embedding: Any
    drop_in: Any
    rnn: Any
    drop_out: Any


class LanguageModel(Module):
    """A character, byte or word model over `vocab_size` tokens; `embedding_size` None feeds them as one-hot rows.

    Parameters are the layers' under a prefix ("rnn.weight_ih_l0", "output.bias"). `seed` draws the weights and keys
    dropout; None draws a fresh one. `compute_dtype` is the recurrent layers'. With `device` "cuda" all of training and
    evaluation runs on a GPU, and states are rnnfast.cuda.DeviceArray; sampling takes a copy of the weights to the CPU.
    `config` holds the arguments (with the seed that was used): LanguageModel(**config) is the same model, untrained.
    `tokenizer` (may be None) turns text into tokens for sample_text; `rng` counts the steps of dropout.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int = 2,
        *,
        cell: str = "lstm",
        embedding_size: int | None = None,
        dropout: float = 0.0,
        tie_weights: bool = False,
        seed: int | None = None,
        dtype: str = "float32",
        compute_dtype: str | None = None,
        nonlinearity: str = "tanh",
        device: str | None = None,
    ) -> None:
        if cell not in ("rnn", "lstm", "gru"):
            raise ValueError(f"cell must be 'rnn', 'lstm' or 'gru', got {cell!r}")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        if tie_weights and embedding_size != hidden_size:
            raise ValueError(
                f"tie_weights needs embedding_size == hidden_size, got {embedding_size} and hidden_size {hidden_size}"
            )
        seed = fresh_seed(seed)
        config: dict[str, Any] = {
            "vocab_size": integer("vocab_size", vocab_size, 1, MOST_TOKENS),
            "hidden_size": integer("hidden_size", hidden_size, 1),
            "num_layers": integer("num_layers", num_layers, 1, MOST_LAYERS),
            "cell": cell,
            "embedding_size": None if embedding_size is None else integer("embedding_size", embedding_size, 1),
            "dropout": real("dropout", dropout, "a number in [0, 1)", lambda p: 0 <= p < 1),
            "tie_weights": boolean("tie_weights", tie_weights),
            "seed": seed,
            "dtype": parameter_dtype(dtype).name,
            "nonlinearity": nonlinearity,
        }
        if compute_dtype is not None:  # so that the configuration of a model without it is what it always was
            config["compute_dtype"] = compute_dtype_name(compute_dtype, parameter_dtype(dtype))
        self.device = cuda.device_name(device)
        if self.device is not None:
            config["device"] = device
        super().__init__(config)
        self.tokenizer: Tokenizer | None = None
        self.rng = CounterRng(seed)
        seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(3, np.uint64)]  # one for each part
        self._build(seeds)
        self._collect()

    def _build(self, seeds: list[int]) -> None:
        c = self.config
        width, dtype, device = c["embedding_size"], c["dtype"], c.get("device")
        self.embedding = None
        if width is not None:
            self.embedding = Embedding(c["vocab_size"], width, dtype=dtype, device=device, seed=seeds[0])
        make: Any = {"rnn": RNN, "lstm": LSTM, "gru": GRU}[c["cell"]]
        extra = {"nonlinearity": c["nonlinearity"]} if c["cell"] == "rnn" else {}
        self.rnn = make(
            c["vocab_size"] if width is None else width,
            c["hidden_size"],
            c["num_layers"],
            dropout=c["dropout"] if c["num_layers"] > 1 else 0.0,
            dtype=dtype,
            compute_dtype=c.get("compute_dtype"),
            device=device,
            seed=seeds[1],
            **extra,
        )
        self.output = Linear(c["hidden_size"], c["vocab_size"], dtype=dtype, device=device, seed=seeds[2])
        self.drop_in = Dropout(c["dropout"], seed=c["seed"], index=0)  # used where there is an embedding
        self.drop_out = Dropout(c["dropout"], seed=c["seed"], index=1)

    def _collect(self) -> None:
        """params and grads: the parts' own arrays, names prefixed; tied weights appear once, as the embedding's."""
        if self.config["tie_weights"] and self.embedding is not None:
            self.embedding.params["weight"][...] = self.output.params["weight"]  # small values: they make the logits
            self.output.params["weight"] = self.embedding.params["weight"]
            self.output.grads["weight"] = self.embedding.grads["weight"]
        for prefix, part in (("embedding", self.embedding), ("rnn", self.rnn), ("output", self.output)):
            if part is not None:
                self._adopt(prefix, part)
        if self.config["tie_weights"]:
            del self.params["output.weight"], self.grads["output.weight"]

    def _extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.state_dict(), "tokenizer": self.tokenizer}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.load_state_dict(state["rng"])
        self.tokenizer = state["tokenizer"]

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    # --- The layers' protocol: logits, and (for the fused output layer and loss) the features below them ---

    def __call__(
        self, tokens: ArrayLike, state: State = None, *, reset: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Logits (T, B, V) of the token after each of tokens (T, B), and the last state; no dropout."""
        x = self.check_tokens("tokens", tokens)
        y, state = self.infer(x, state, reset)
        logits: Array = self.output(y)
        return logits, state

    def forward(
        self,
        tokens: ArrayLike,
        state: State = None,
        *,
        reset: ArrayLike | None = None,
        training: bool = True,
        rng: CounterRng | None = None,
    ) -> tuple[Array, State, Any]:
        """Logits (T, B, V), the last state, and the cache for backward."""
        y, state, cache = self.forward_features(tokens, state, reset=reset, training=training, rng=rng)
        logits, output = self.output.forward(y)
        return logits, state, (cache, output)

    def backward(self, dlogits: Array | None, dstate: State, cache: Any) -> tuple[None, State]:
        """Adds into grads; returns (None, dstate0): tokens have no gradient."""
        dy = None if dlogits is None else self.output.backward(dlogits, cache[1])
        return self.backward_features(dy, dstate, cache[0])

    def forward_features(
        self,
        tokens: ArrayLike,
        state: State = None,
        *,
        reset: ArrayLike | None = None,
        training: bool = True,
        rng: CounterRng | None = None,
    ) -> tuple[Array, State, Any]:
        """What the output layer sees (T, B, H), the last state, and the cache; `rng` moves on by T steps."""
        x: Any = self._placed(self.check_tokens("tokens", tokens))
        rng = self.rng if rng is None else rng
        if not isinstance(rng, CounterRng):
            raise TypeError(f"rng must be a rnnfast.random.CounterRng or None, got {rng!r}")
        # Every dropout of these T steps starts from the same step; their streams differ.
        embedding = drop_in = None
        if self.embedding is not None:
            x, embedding = self.embedding.forward(x)
            x, drop_in = self.drop_in.forward(x, training=training, rng=copy(rng))
        y, state, rnn = self.rnn.forward(x, state, reset=reset, training=training, rng=copy(rng))
        y, drop_out = self.drop_out.forward(y, training=training, rng=copy(rng))
        if training:
            rng.step += len(x)
        return y, state, _Cache(embedding, drop_in, rnn, drop_out)

    def backward_features(self, dy: Array | None, dstate: State, cache: Any) -> tuple[None, State]:
        """The mirror of forward_features: adds into grads, returns (None, dstate0)."""
        dy = None if dy is None else self.drop_out.backward(dy, cache.drop_out)
        dx, dstate = self.rnn.backward(dy, dstate, cache.rnn)
        if self.embedding is not None:
            self.embedding.backward(self.drop_in.backward(dx, cache.drop_in), cache.embedding)
        return None, dstate

    def loss(self, features: Array, targets: ArrayLike, *, reduction: str = "mean") -> tuple[Any, Array]:
        """Output layer and cross-entropy in one: (loss, gradient of the features); adds into the output's grads."""
        params, grads = self.output.params, self.output.grads
        value, dfeatures = ops.linear_cross_entropy(
            features,
            params["weight"],
            params["bias"],
            self.check_tokens("targets", targets),
            dweight=grads["weight"],
            dbias=grads["bias"],
            reduction=reduction,
        )
        assert dfeatures is not None
        return value, dfeatures

    # --- Training and evaluation ---

    def train_step(
        self,
        tokens: ArrayLike,
        state: State,
        optimizer: Any,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[float, State]:
        """One update on tokens (T+1, B): (mean loss in nats of tokens[1:], state to carry on). Truncated BPTT is this
        in a loop.

        Gradients are clipped by value, then by norm. If it raises (a loss or a gradient that is not finite included),
        neither the parameters nor the optimiser nor dropout's generator have changed.
        """
        x, targets = self._chunk(tokens)

        def gradients() -> float:
            nonlocal state
            y, state, cache = self.forward_features(x, state, reset=reset)
            loss, dy = self.loss(y, targets)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
            self.backward_features(dy, None, cache)
            return float(loss)

        loss = update(self, optimizer, gradients, clip_norm=clip_norm, clip_value=clip_value)
        return loss, state

    def evaluate(
        self, tokens: ArrayLike, state: State = None, *, reset: ArrayLike | None = None
    ) -> tuple[float, State]:
        """(mean loss in nats of tokens[1:], state to carry on) on tokens (T+1, B): no dropout, no cache."""
        x, targets = self._chunk(tokens)
        y, state = self.infer(x, state, reset)
        params = self.output.held
        return float(ops.linear_cross_entropy(y, params["weight"], params["bias"], targets)[0]), state

    def infer(self, x: Array, state: State, reset: ArrayLike | None) -> tuple[Array, State]:
        """Features (T, B, H) of checked tokens, and the last state; no cache."""
        x = self._placed(x)
        x = x if self.embedding is None else self.embedding(x)
        result: tuple[Array, State] = self.rnn(x, state, reset=reset)
        return result

    # --- Sampling ---

    def sample(
        self,
        prompt_ids: ArrayLike,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        num_samples: int = 1,
    ) -> Array:
        """`length` new tokens after the prompt: (length,), or with several samples (num_samples, length); int64.

        Temperature 0 takes the likeliest token; top_k keeps the k likeliest, top_p the fewest likeliest whose
        probabilities reach p. A seed gives the same tokens again; sample i is the same whatever num_samples is.
        """
        length = integer("length", length, 0)
        sampler, seed = self._sampler(prompt_ids, seed, num_samples)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        ids = sampler.sample(length, **options)  # (length, num_samples)
        return np.ascontiguousarray(ids[:, 0] if num_samples == 1 else ids.T)

    def generate(
        self,
        prompt_ids: ArrayLike,
        length: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        num_samples: int = 1,
    ) -> Iterator[Any]:
        """The tokens of sample, one at a time as they are drawn: ints, or with several samples arrays (num_samples,).

        Without `length` it never ends. It uses the weights as they are when it is called.
        """
        length = None if length is None else integer("length", length, 0)
        sampler, seed = self._sampler(prompt_ids, seed, num_samples)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        sampler.sample(0, **options)  # a wrong option shows now, not at the first token
        return _stream(sampler, length, options, single=num_samples == 1)

    def sample_text(self, prime: str, length: int, **options: Any) -> Any:
        """The prime text and `length` sampled tokens after it, as text (a list of texts with num_samples > 1).

        Takes sample's keywords; needs `tokenizer`.
        """
        if self.tokenizer is None:
            raise ValueError("sample_text needs a tokenizer: set model.tokenizer, got None")
        prompt = self.tokenizer.encode(prime)
        ids = self.sample(prompt, length, **options)
        texts = [self.tokenizer.decode(np.concatenate([prompt, row])) for row in np.atleast_2d(ids)]
        return texts[0] if ids.ndim == 1 else texts

    def _sampler(self, prompt_ids: ArrayLike, seed: int | None, num_samples: int) -> tuple[Any, int]:
        from .sampling import Sampler

        sampler = Sampler(self, integer("num_samples", num_samples, 1))
        sampler.prime(self.check_tokens("prompt_ids", prompt_ids, (1,)))
        return sampler, fresh_seed(seed)

    def _placed(self, tokens: Array) -> Any:
        """Checked tokens where the model is."""
        return tokens if self.device is None else tokens_on_device(tokens)

    # --- Checks ---

    def _chunk(self, tokens: ArrayLike) -> tuple[Array, Array]:
        array = self.check_tokens("tokens", tokens)
        if len(array) < 2:
            raise ValueError(f"tokens must have shape (T+1, B) with T at least 1, got {array.shape}")
        return array[:-1], array[1:]

    def check_tokens(self, name: str, tokens: ArrayLike, dims: tuple[int, ...] = (2,)) -> Array:
        """Tokens as int32, of the right rank and in the vocabulary, or an error that names the argument."""
        array = np.zeros(0, np.int32) if isinstance(tokens, list) and not tokens else as_array(name, tokens)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
        if array.ndim not in dims:
            shape = "(length,)" if dims == (1,) else "(T, B)"
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        return as_tokens(name, array, self.vocab_size)


def _stream(sampler: Any, length: int | None, options: dict[str, Any], single: bool) -> Iterator[Any]:
    position = 0
    while length is None or position < length:
        ids = sampler.sample(1, **options, start=position)[0]  # (num_samples,)
        yield int(ids[0]) if single else ids
        position += 1
