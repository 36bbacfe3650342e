"""Learning rate schedules. The rate of a step is a function of where the training stands and of nothing else, except
for `plateau`, whose small state the trainer saves with the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Schedule"]

KINDS = ("constant", "step", "cosine", "plateau")


@dataclass
class Schedule:
    """The learning rate over a training run.

    constant  `learning_rate` throughout
    step      times `decay` at epoch `decay_after`, and again every `decay_every` epochs from there
    cosine    half a cosine from `learning_rate` to `min_learning_rate` over the whole run
    plateau   times `decay` after more than `patience` evaluations in a row that did not improve, never below
              `min_learning_rate`

    Any of them rises linearly over the first `warmup` steps.
    """

    kind: str = "constant"
    learning_rate: float = 2e-3
    warmup: int = 0
    min_learning_rate: float = 0.0
    decay: float = 0.5
    decay_after: float = 1.0
    decay_every: float = 1.0
    patience: int = 2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule must be one of {', '.join(KINDS)}, got {self.kind!r}")
        self._scale, self._best, self._bad = 1.0, math.inf, 0

    def rate(self, step: int, epoch: float, progress: float) -> float:
        """The rate for the step numbered `step` (from 0), at `epoch` (a fraction counts), `progress` of the run done
        (0 to 1)."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        top, floor = self.learning_rate, self.min_learning_rate
        if self.kind == "step" and epoch >= self.decay_after:
            top *= self.decay ** (1 + math.floor((epoch - self.decay_after) / self.decay_every))
        elif self.kind == "cosine":
            if step >= self.warmup:
                # The cosine begins where the rise ends, at this part of the run.
                risen = progress * self.warmup / step if step else 0.0
                done = min(1.0, (progress - risen) / (1.0 - risen)) if risen < 1.0 else 1.0
                top = floor + (top - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
        elif self.kind == "plateau":
            top = max(top * self._scale, min(floor, top))
        return top * rise

    def observe(self, loss: float) -> None:
        """Tell the schedule the loss of an evaluation."""
        if self.kind != "plateau":
            return
        if loss < self._best:
            self._best, self._bad = loss, 0
            return
        self._bad += 1
        if self._bad > self.patience:
            self._scale, self._bad = self._scale * self.decay, 0

    def state_dict(self) -> dict[str, Any]:
        best = None if math.isinf(self._best) else self._best
        return {"scale": self._scale, "best": best, "bad": self._bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale, self._bad = float(state["scale"]), int(state["bad"])
        self._best = math.inf if state["best"] is None else float(state["best"])
