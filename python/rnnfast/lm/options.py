"""Everything that can be chosen about training a language model: names, defaults, what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..schedules import KINDS

__all__ = ["FROZEN", "FitOptions", "OptionError", "resumed"]


class OptionError(ValueError):
    """An option with a value that it cannot have."""

    def __init__(self, name: str, expected: str, value: Any) -> None:
        super().__init__(f"{name} must be {expected}, got {value!r}")
        self.name, self.expected, self.value = name, expected, value


@dataclass
class FitOptions:
    """The options of `fit`, the `rnnfast lm train` flags and the keys of its `--config` file; None is "not used" or
    "chosen for you". The defaults suit a character model of a text of a few megabytes."""

    # the text
    level: str = "char"
    min_count: int = 1
    val_frac: float = 0.1
    # the model
    cell: str = "lstm"
    nonlinearity: str = "tanh"
    hidden_size: int = 128
    num_layers: int = 2
    embedding_size: int | None = None
    dropout: float = 0.0
    tie_weights: bool = False
    dtype: str = "float32"
    compute_dtype: str | None = None
    device: str | None = None
    seed: int | None = None
    # one step
    batch_size: int = 50
    seq_length: int = 50
    optimizer: str = "adam"
    learning_rate: float = 2e-3
    momentum: float = 0.0
    decay_rate: float = 0.95
    weight_decay: float | None = None
    grad_clip: float | None = 5.0
    grad_clip_by: str = "norm"
    # the learning rate over time
    schedule: str = "cosine"
    warmup: int = 0
    min_learning_rate: float = 0.0
    learning_rate_decay: float = 0.5
    learning_rate_decay_after: float = 1.0
    learning_rate_decay_every: float = 1.0
    plateau_patience: int = 2
    # when to stop
    max_epochs: int | None = None  # 50 if no other limit is given
    max_steps: int | None = None
    max_time: float | None = None
    patience: int | None = None
    # what happens on the way
    eval_every: int | None = None
    eval_seconds: float | None = None
    save_every: int | None = None
    log_every: int | None = None
    print_every: int | None = None
    sample_length: int = 200
    sample_prime: str | None = None
    sample_temperature: float = 0.8

    def validate(self) -> FitOptions:
        def require(name: str, met: bool, expected: str) -> None:
            if not met:
                raise OptionError(name, expected, getattr(self, name))

        for f in fields(self):
            expected, allowed = _CHECKS[f.name]
            require(f.name, allowed(getattr(self, f.name)), expected)
        tied = not self.tie_weights or self.embedding_size == self.hidden_size
        require("embedding_size", tied, f"the hidden size ({self.hidden_size}) for tied weights")
        wider = "bfloat16" if self.dtype == "float32" else None
        computes = self.compute_dtype in (None, self.dtype, wider)
        require("compute_dtype", computes, f"None or {self.dtype!r} where dtype is {self.dtype!r}")
        lower = self.min_learning_rate <= self.learning_rate
        require("min_learning_rate", lower, f"at most the learning rate ({self.learning_rate})")
        require("patience", self.patience is None or self.val_frac > 0, "None with val_frac 0: nothing to validate on")
        validates = self.schedule != "plateau" or self.val_frac > 0
        require("schedule", validates, "another one with val_frac 0: plateau needs a validation loss")
        return self

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitOptions:
        known = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise OptionError(name, f"left out: there is no such option (there are: {', '.join(known)})", value)
        return cls(**values)


# What the run's other steps, or the weights, are made of: it cannot change half-way.
FROZEN = (
    *("level", "min_count", "val_frac", "cell", "nonlinearity", "hidden_size", "num_layers", "embedding_size"),
    *("dropout", "tie_weights", "dtype", "compute_dtype", "seed", "batch_size", "seq_length", "optimizer"),
)


def resumed(saved: Mapping[str, Any], given: Mapping[str, Any]) -> FitOptions:
    """The options of a resumed run: those that it was started with, and over them those that are given now."""
    for name in FROZEN:
        if name in given and name in saved and given[name] != saved[name]:
            raise OptionError(name, f"{saved[name]!r} as in the run that is resumed", given[name])
    known = {f.name for f in fields(FitOptions)}
    return FitOptions.from_dict({**{k: v for k, v in saved.items() if k in known}, **given})


# ---- what is allowed ----

Check = tuple[str, Callable[[Any], bool]]


def _is_int(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def _one_of(*values: str) -> Check:
    return "one of " + ", ".join(values), lambda v: isinstance(v, str) and v in values


def _optional(check: Check) -> Check:
    expected, allowed = check
    return expected, lambda v: v is None or allowed(v)


_COUNT: Check = ("an integer of at least 1", lambda v: _is_int(v) and v >= 1)
_COUNT_OR_0: Check = ("an integer of at least 0", lambda v: _is_int(v) and v >= 0)
_POSITIVE: Check = ("a number greater than 0", lambda v: _is_number(v) and v > 0)
_NOT_NEGATIVE: Check = ("a number of at least 0", lambda v: _is_number(v) and v >= 0)
_BELOW_1: Check = ("a number of at least 0 and less than 1", lambda v: _is_number(v) and 0 <= v < 1)
_FACTOR: Check = ("a number greater than 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1)
_FLAG: Check = ("True or False", lambda v: isinstance(v, bool))
_TEXT: Check = ("a string", lambda v: isinstance(v, str))
_DEVICE: Check = (
    "'cpu', 'cuda' or 'cuda:N'",
    lambda v: isinstance(v, str) and re.fullmatch("cpu|cuda(:[0-9]+)?", v) is not None,
)
_SEED: Check = ("an integer from 0 to 2**64 - 1", lambda v: _is_int(v) and 0 <= v < 2**64)

_CHECKS: dict[str, Check] = {
    "level": _one_of("char", "byte", "word"),
    "min_count": _COUNT,
    "val_frac": _BELOW_1,
    "cell": _one_of("lstm", "gru", "rnn"),
    "nonlinearity": _one_of("tanh", "relu"),
    "hidden_size": _COUNT,
    "num_layers": _COUNT,
    "embedding_size": _optional(_COUNT),
    "dropout": _BELOW_1,
    "tie_weights": _FLAG,
    "dtype": _one_of("float32", "float64"),
    "compute_dtype": _optional(_one_of("float32", "float64", "bfloat16")),
    "device": _optional(_DEVICE),
    "seed": _optional(_SEED),
    "batch_size": _COUNT,
    "seq_length": _COUNT,
    "optimizer": _one_of("adam", "adamw", "rmsprop", "sgd"),
    "learning_rate": _POSITIVE,
    "momentum": _BELOW_1,
    "decay_rate": _BELOW_1,
    "weight_decay": _optional(_NOT_NEGATIVE),
    "grad_clip": _optional(_NOT_NEGATIVE),
    "grad_clip_by": _one_of("norm", "value"),
    "schedule": _one_of(*KINDS),
    "warmup": _COUNT_OR_0,
    "min_learning_rate": _NOT_NEGATIVE,
    "learning_rate_decay": _FACTOR,
    "learning_rate_decay_after": _NOT_NEGATIVE,
    "learning_rate_decay_every": _POSITIVE,
    "plateau_patience": _COUNT_OR_0,
    "max_epochs": _optional(_COUNT),
    "max_steps": _optional(_COUNT),
    "max_time": _optional(_POSITIVE),
    "patience": _optional(_COUNT),
    "eval_every": _optional(_COUNT),
    "eval_seconds": _optional(_POSITIVE),
    "save_every": _optional(_COUNT),
    "log_every": _optional(_COUNT),
    "print_every": _optional(_COUNT),
    "sample_length": _COUNT_OR_0,
    "sample_prime": _optional(_TEXT),
    "sample_temperature": _NOT_NEGATIVE,
}
