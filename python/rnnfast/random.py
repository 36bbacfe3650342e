"""The key of dropout's random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ._check import integer

__all__ = ["CounterRng", "fresh_seed"]


def fresh_seed(seed: int | None, name: str = "seed") -> int:
    """The seed as an int in 0 .. 2**64 - 1; None draws a fresh one."""
    if seed is None:
        return secrets.randbits(63)
    return integer(name, seed, 0, 2**64 - 1)


class CounterRng:
    """Where dropout is in its sequence of masks: a seed, and the number of time steps that have been drawn.

    Masks are a function of (seed, step, layer, direction, row, unit), by Philox4x32-10 (Salmon et al. 2011), so they do
    not depend on threads, on the order of a batch, or on how a sequence is cut into chunks. A training forward pass of
    T steps advances `step` by T.
    """

    def __init__(self, seed: int | None = None, step: int = 0) -> None:
        self.seed = fresh_seed(seed)
        self.step = integer("step", step, 0, 2**63 - 1)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        seed, step = fresh_seed(state["seed"], "state['seed']"), integer("state['step']", state["step"], 0, 2**63 - 1)
        self.seed, self.step = seed, step

    def __repr__(self) -> str:
        return f"CounterRng(seed={self.seed}, step={self.step})"
