"""Who is timed: rnnfast, and beside it torch, onnxruntime and JAX as someone who knows them well would write the same.

A runner has the weights and inputs of its case; `answers` computes what all runners of the case must agree on, `run` is
what is timed. How each peer does it is in peer_<name>.py, which imports that peer.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import optim
from ..layers import GRU, LSTM, RNN
from ..lm import LanguageModel
from .cases import CLIP_NORM, LEARNING_RATE, Arrays, Case, Layer, Model, arrays, lengths, parameters

__all__ = [
    "OURS", "OWN", "PADDED", "PART", "PEERS", "Runner", "Steps", "find_peers", "first_outputs", "named", "runners",
    "tolerance",
]  # fmt: skip

OURS = "rnnfast"
PART = "rnnfast, RNN alone"  # of a training step: what is left of it is the rest
PADDED = "rnnfast, padded"  # the same batch with all sequences as long as the array
OWN = (OURS, PART, PADDED)
PEERS = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx"), "jax": ("jax",)}  # and what they need
STEPS_COMPARED = 4


@dataclass(frozen=True)
class Runner:
    """One way to do a case; `name` is a column of the table."""

    name: str
    run: Callable[[], object]
    answers: Callable[[], Arrays]


def find_peers() -> dict[str, str | None]:
    """The peers' versions, None where one cannot be imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found: dict[str, str | None] = {}
    for name, modules in PEERS.items():
        try:
            found[name] = str([importlib.import_module(module) for module in modules][0].__version__)
        except (ImportError, OSError):  # OSError: one of its libraries is missing
            found[name] = None
    return found


def runners(case: Case, peers: dict[str, str | None], threads: int) -> list[Runner]:
    """Ours first, then those of the peers that are there and can do the case on so many threads."""
    params, data = parameters(case), arrays(case)
    made = _our_layers(case, params, data) if isinstance(case, Layer) else _our_model(case, params, data)
    for name, version in peers.items():
        if version is not None:
            made += importlib.import_module(f"{__package__}.peer_{name}").runners(case, params, data, threads)
    return made


def tolerance(case: Case) -> float:
    """Differences of float32 sums in another order; the same tokens where they are picked by argmax; of bfloat16, the
    rounding of every product's factors."""
    if isinstance(case, Model) and case.job == "sample":
        return 0.0
    return 2e-5 if case.dtype == "float32" else 5e-2


def named(y: Any, state: Any) -> Arrays:
    h, *c = state if isinstance(state, tuple) else (state,)
    return {"y": y, "h": h} | ({"c": c[0]} if c else {})


def first_outputs(step: Callable[[], Any]) -> Arrays:
    """Of a stream, each (H,); they cover the state that is carried."""
    return {"y": np.stack([np.array(step()) for _ in range(STEPS_COMPARED)])}


class Steps:
    """Training steps over chunks that come round again."""

    def __init__(self, chunks: Any, step: Callable[[Any], float]) -> None:
        self.chunks, self._step, self._next = chunks, step, 0

    def step(self) -> float:
        self._next += 1
        return self._step(self.chunks[(self._next - 1) % len(self.chunks)])

    def first_losses(self) -> Arrays:
        """Each is of weights that all updates before it have made, so they cover gradients, clipping and Adam too."""
        return {"losses": np.array([self.step() for _ in range(STEPS_COMPARED)])}


# ---- rnnfast ----


def _our_layers(case: Layer, params: Arrays, data: Arrays) -> list[Runner]:
    made = [_our_layer(case, params, data)]
    if case.ragged:
        made.append(replace(_our_layer(replace(case, ragged=False), params, data), name=PADDED))
    return made


def _our_layer(case: Layer, params: Arrays, data: Arrays) -> Runner:
    kind: Any = {"rnn": RNN, "lstm": LSTM, "gru": GRU}[case.cell]
    compute = None if case.dtype == "float32" else case.dtype
    layer = kind(case.I, case.H, case.layers, bidirectional=case.bidirectional, compute_dtype=compute, seed=1)
    layer.load_state_dict(params)
    x, dy, cut = data["x"], data["dy"], lengths(case)
    if case.mode == "step":
        stream, row, out = layer.stream(), x[0, 0], np.empty(case.H, np.float32)
        return Runner(OURS, lambda: stream.step(row, out), lambda: first_outputs(lambda: stream.step(row)))

    def forward_backward() -> tuple[Any, Any, Any]:
        y, state, cache = layer.forward(x, lengths=cut, copy=False)  # torch holds on to its arrays, too
        # Nor does torch make a gradient for the zeros, or add to one that is None.
        dx, _ = layer.backward(dy, None, cache, want_dstate0=False, accumulate=False)
        return y, state, dx

    def answers() -> Arrays:
        if case.mode == "forward":
            return named(*layer(x, lengths=cut))
        y, state, dx = forward_backward()
        return named(y, state) | {"dx": dx} | {f"grad {name}": grad.copy() for name, grad in layer.grads.items()}

    return Runner(OURS, (lambda: layer(x, lengths=cut)) if case.mode == "forward" else forward_backward, answers)


def _our_model(case: Model, params: Arrays, data: Arrays) -> list[Runner]:
    options: Any = {} if case.dtype == "float32" else {"compute_dtype": case.dtype}
    model = LanguageModel(case.V, case.H, case.layers, embedding_size=case.embedding, seed=1, **options)
    model.load_state_dict(params)
    if case.job == "sample":
        prompt = data["prompt"]

        def sample(temperature: float) -> NDArray[Any]:
            return model.sample(prompt, case.T, temperature=temperature, seed=1, num_samples=case.B)

        return [Runner(OURS, lambda: sample(1.0), lambda: {"tokens": sample(0.0).reshape(case.B, case.T)})]
    optimizer, state = optim.Adam(LEARNING_RATE), None

    def step(tokens: NDArray[Any]) -> float:
        nonlocal state
        loss, state = model.train_step(tokens, state, optimizer, clip_norm=CLIP_NORM)
        return loss

    steps = Steps(data["tokens"], step)
    tokens = data["tokens"][0, :-1]
    x = tokens if model.embedding is None else model.embedding(tokens)
    dy = np.random.default_rng(4).standard_normal((case.T, case.B, case.H), dtype=np.float32)

    def rnn_alone() -> None:
        _, _, cache = model.rnn.forward(x)
        model.rnn.backward(dy, None, cache)

    return [Runner(OURS, steps.step, steps.first_losses), Runner(PART, rnn_alone, dict)]
