"""What is timed: the cases, and their weights and inputs, drawn from a fixed seed so that every peer gets the same.

A layer has the shape T (steps), B (sequences), I (inputs), H (hidden units); V is the size of a vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "Case", "CharModel", "Layer", "all_cases", "arrays", "parameters", "select"]

Arrays = dict[str, NDArray[Any]]

CELLS = ("rnn", "lstm", "gru")
GATES = {"rnn": 1, "lstm": 4, "gru": 3}  # rows of a weight matrix, in units of H

SHAPES = (  # T, B, I, H
    (50, 64, 128, 256),
    (100, 32, 512, 512),
    (50, 50, 128, 128),
    (128, 16, 32, 64),
    (100, 1, 256, 256),
    (1, 1, 512, 512),
)
QUICK_SHAPES = ((50, 50, 128, 128), (100, 1, 256, 256))

LEARNING_RATE, CLIP_NORM = 2e-3, 5.0
CHUNKS = 8  # of a training stream that comes round again


@dataclass(frozen=True)
class Layer:
    """One layer over a whole sequence. "forward" is inference; "forward+backward" has the gradients of x, of all
    weights and of all biases for a given gradient of y."""

    cell: str
    mode: str
    T: int
    B: int
    I: int
    H: int

    @property
    def name(self) -> str:
        return f"{self.cell}/{self.mode}/T{self.T}-B{self.B}-I{self.I}-H{self.H}"


@dataclass(frozen=True)
class CharModel:
    """A job of the character model of char-rnn: LSTM layers over one-hot characters and a linear output layer.

    "step" is one training step: forward, loss, backward, clipping by norm, Adam; the state is carried to the next.
    "sample" draws T characters, one stream, each the input of the next step.
    """

    job: str
    T: int
    B: int
    V: int = 65
    H: int = 128
    layers: int = 2

    @property
    def name(self) -> str:
        return f"charlm/{self.job}/{self.layers}x{self.H}-T{self.T}-B{self.B}"


Case = Layer | CharModel
CHAR = (CharModel("step", T=50, B=50), CharModel("sample", T=200, B=1))
QUICK_CHAR = (CharModel("step", T=50, B=50), CharModel("sample", T=50, B=1))


def all_cases(quick: bool = False) -> list[Case]:
    shapes = QUICK_SHAPES if quick else SHAPES
    layers = [Layer(cell, mode, *s) for s in shapes for cell in CELLS for mode in ("forward", "forward+backward")]
    return [*layers, *(QUICK_CHAR if quick else CHAR)]


def select(cases: list[Case], pattern: str | None) -> list[Case]:
    """The cases whose name contains one of the words of `pattern`, which commas part; None is all of them."""
    if pattern is None:
        return cases
    words = [word.strip() for word in pattern.split(",") if word.strip()]
    return [case for case in cases if any(word in case.name for word in words)]


def parameters(case: Case) -> Arrays:
    """Weights and biases under PyTorch's names, uniform in +-1/sqrt(H) as PyTorch draws them."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {}
    cell, layers, prefix = (case.cell, 1, "") if isinstance(case, Layer) else ("lstm", case.layers, "rnn.")
    rows = GATES[cell] * case.H
    for layer in range(layers):
        width = case.H if layer else case.I if isinstance(case, Layer) else case.V
        shapes[f"{prefix}weight_ih_l{layer}"] = (rows, width)
        shapes[f"{prefix}weight_hh_l{layer}"] = (rows, case.H)
        shapes[f"{prefix}bias_ih_l{layer}"] = shapes[f"{prefix}bias_hh_l{layer}"] = (rows,)
    if isinstance(case, CharModel):
        shapes |= {"output.weight": (case.V, case.H), "output.bias": (case.V,)}
    bound = case.H**-0.5
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def arrays(case: Case) -> Arrays:
    """Inputs: of a layer x (T, B, I) and dy (T, B, H); of the model tokens (CHUNKS, T+1, B), or the prompt (1,)."""
    rng = np.random.default_rng(2)
    if isinstance(case, Layer):
        x = rng.standard_normal((case.T, case.B, case.I), dtype=np.float32)
        return {"x": x, "dy": rng.standard_normal((case.T, case.B, case.H), dtype=np.float32)}
    if case.job == "sample":
        return {"prompt": np.zeros(1, np.int32)}
    # Frequencies that fall like those of letters: where few symbols are common, a row of weights is used again soon.
    weights = 1.0 / np.arange(1, case.V + 1)
    tokens = rng.choice(case.V, (CHUNKS, case.T + 1, case.B), p=weights / weights.sum())
    return {"tokens": tokens.astype(np.int32)}
