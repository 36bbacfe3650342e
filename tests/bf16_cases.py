"""What the tests of layers that compute in bfloat16 share, on a CPU and on a GPU.

The oracle rounds the same operands and does all else in float64. A number that lies at the border between two bf16
numbers may be rounded the other way in it, so a few entries may be off by what one rounding is worth.
"""

from __future__ import annotations

import numpy as np

import rnnfast
import tolerances


def assert_rounded_alike(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """The results of a layer and those of the oracle."""
    for name, value in want.items():
        assert got[name].dtype == np.float32
        error = np.abs(got[name] - value) / max(1.0, np.abs(value).max(initial=0))
        assert error.max(initial=0) <= tolerances.BF16, f"{name}: {error.max():.3g}"
        typical = np.median(error[value != 0]) if value.any() else 0.0
        assert typical <= tolerances.BF16_MEDIAN, f"{name}: {typical:.3g}"


def floats(n: int = 20000) -> np.ndarray:
    """Positive floats of all exponents, ties among them, and at the end what is special."""
    bits = np.random.default_rng(0).integers(0x00800000, 0x7F7F0000, n, dtype=np.uint32)
    bits[::3] = bits[::3] & 0xFFFF0000 | 0x8000
    return np.concatenate([bits.view(np.float32), np.float32([0, np.inf, 3.3895314e38, 3.4e38])])


def relu(inputs: int, hidden: int, device: str | None = None) -> rnnfast.RNN:
    """A layer that says what it has been given: y = x of the first step."""
    layer = rnnfast.RNN(inputs, hidden, nonlinearity="relu", bias=False, compute_dtype="bfloat16", device=device)
    layer.params["weight_ih_l0"].fill(1)
    layer.params["weight_hh_l0"].fill(0)
    return layer
