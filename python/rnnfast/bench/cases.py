"""What is timed: the cases, and their weights and inputs, drawn from a fixed seed so that every peer gets the same.

A case has T (steps), B (sequences), I (inputs), H (hidden units); V is the size of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CELLS", "MODES", "Case", "Layer", "Model", "all_cases", "arrays", "from_config", "lengths", "parameters", "select",
]  # fmt: skip

Arrays = dict[str, NDArray[Any]]

CELLS = ("rnn", "lstm", "gru")
MODES = ("forward", "forward+backward")
DTYPES = ("float32", "bfloat16")  # what products multiply
GATES = {"rnn": 1, "lstm": 4, "gru": 3}  # rows of a weight matrix, in units of H

SHAPES = (  # T, B, I, H
    (50, 64, 128, 256),
    (100, 32, 512, 512),
    (50, 50, 128, 128),
    (20, 64, 1024, 1024),
    (35, 20, 650, 650),
    (128, 16, 32, 64),
    (400, 8, 40, 320),
    (1000, 4, 64, 128),
    (100, 1, 256, 256),
    (1, 1, 512, 512),
)
QUICK_SHAPES = ((50, 50, 128, 128), (100, 1, 256, 256))
VARIANTS: tuple[tuple[dict[str, Any], tuple[int, ...]], ...] = (  # and the shapes, by their place in SHAPES
    ({"layers": 2}, (0, 8)),
    ({"bidirectional": True}, (0, 8)),
    ({"ragged": True}, (0, 1, 6)),
)
STREAMS = (16, 64, 256, 512)  # I = H of one step of one sequence

LEARNING_RATE, CLIP_NORM = 2e-3, 5.0
CHUNKS = 8  # of a training stream that comes round again


@dataclass(frozen=True)
class Layer:
    """Recurrent layers over whole sequences: "forward" is inference; "forward+backward" has the gradients of x, of all
    weights and of all biases for a given gradient of y. Both take the parameters as they are at that moment. "step" is
    one step of a stream, which may have packed them beforehand, the state carried to the next."""

    cell: str
    mode: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False
    dtype: str = "float32"

    @property
    def name(self) -> str:
        marks = [f"L{self.layers}"] * (self.layers > 1) + ["bidirectional"] * self.bidirectional
        marks += ["ragged"] * self.ragged + [self.dtype] * (self.dtype != "float32")
        return "-".join([f"{self.cell}/{self.mode}/T{self.T}", f"B{self.B}", f"I{self.I}", f"H{self.H}", *marks])


@dataclass(frozen=True)
class Model:
    """A job of a language model: LSTM layers over one-hot characters, or words with an embedding, and a linear output
    layer.

    "step" is one training step: forward, loss, backward, clipping by norm, Adam; the state is carried to the next.
    "sample" draws T tokens for each of B streams, each the input of its next step.
    """

    job: str
    T: int
    B: int
    V: int = 65
    H: int = 128
    layers: int = 2
    embedding: int | None = None
    dtype: str = "float32"

    @property
    def name(self) -> str:
        kind = "wordlm" if self.embedding else "charlm"
        mark = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{kind}/{self.job}/{self.layers}x{self.H}-T{self.T}-B{self.B}{mark}"


Case = Layer | Model
MODELS = (
    Model("step", T=50, B=50),
    *(Model("step", T=64, B=64, H=512, dtype=dtype) for dtype in DTYPES),
    Model("step", T=35, B=20, V=10_000, H=650, embedding=650),
    *(Model("sample", T=200, B=streams, H=H) for H in (128, 512) for streams in (1, 16)),
)
QUICK_MODELS = (Model("step", T=50, B=50), Model("sample", T=50, B=1))


def all_cases(quick: bool = False) -> list[Case]:
    pairs = [(cell, mode) for cell in CELLS for mode in MODES]
    if quick:
        layers = [Layer(cell, mode, *shape) for shape in QUICK_SHAPES for cell, mode in pairs]
        return [*layers, Layer("lstm", "step", 1, 1, 64, 64), *QUICK_MODELS]
    # bfloat16 pays where there is enough to multiply.
    layers = [
        Layer(cell, mode, *shape, dtype=dtype)
        for shape in SHAPES
        for dtype in DTYPES
        for cell, mode in pairs
        if dtype == "float32" or shape[1] >= 20
    ]
    layers += [
        Layer(cell, mode, *SHAPES[i], **variant) for variant, places in VARIANTS for i in places for cell, mode in pairs
    ]
    layers += [Layer(cell, "step", 1, 1, H, H) for H in STREAMS for cell in CELLS]
    return [*layers, *MODELS]


def select(cases: list[Case], pattern: str | None) -> list[Case]:
    """The cases whose name contains one of the words of `pattern`, which commas part; None is all of them."""
    if pattern is None:
        return cases
    words = [word.strip() for word in pattern.split(",") if word.strip()]
    return [case for case in cases if any(word in case.name for word in words)]


def from_config(config: Mapping[str, Any]) -> Case:
    """The case of dataclasses.asdict(case)."""
    return Layer(**config) if "cell" in config else Model(**config)


def parameters(case: Case) -> Arrays:
    """Weights and biases under PyTorch's names, uniform in +-1/sqrt(H) as PyTorch draws them."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {}
    cell, prefix, directions, width = "lstm", "rnn.", 1, 0
    if isinstance(case, Layer):
        cell, prefix, directions, width = case.cell, "", 2 if case.bidirectional else 1, case.I
    else:
        width = case.embedding or case.V
        if case.embedding:
            shapes["embedding.weight"] = (case.V, width)
        shapes |= {"output.weight": (case.V, case.H), "output.bias": (case.V,)}
    rows = GATES[cell] * case.H
    for layer in range(case.layers):
        for suffix in ("", "_reverse")[:directions]:
            shapes[f"{prefix}weight_ih_l{layer}{suffix}"] = (rows, directions * case.H if layer else width)
            shapes[f"{prefix}weight_hh_l{layer}{suffix}"] = (rows, case.H)
            shapes[f"{prefix}bias_ih_l{layer}{suffix}"] = shapes[f"{prefix}bias_hh_l{layer}{suffix}"] = (rows,)
    bound = case.H**-0.5
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def arrays(case: Case) -> Arrays:
    """Inputs: of layers x (T, B, I) and dy (T, B, D*H); of a model tokens (CHUNKS, T+1, B), or the prompt (1,)."""
    rng = np.random.default_rng(2)
    if isinstance(case, Layer):
        width = case.H * (2 if case.bidirectional else 1)
        x = rng.standard_normal((case.T, case.B, case.I), dtype=np.float32)
        return {"x": x, "dy": rng.standard_normal((case.T, case.B, width), dtype=np.float32)}
    if case.job == "sample":
        return {"prompt": np.zeros(1, np.int32)}
    # Frequencies that fall like those of letters or words: where few are common, a row of weights is used again soon.
    weights = 1.0 / np.arange(1, case.V + 1)
    tokens = rng.choice(case.V, (CHUNKS, case.T + 1, case.B), p=weights / weights.sum())
    return {"tokens": tokens.astype(np.int32)}


def lengths(case: Layer) -> NDArray[np.int64] | None:
    """(B,) uniform in 1 .. T where the case is ragged, else None."""
    return np.random.default_rng(3).integers(1, case.T + 1, case.B) if case.ragged else None
