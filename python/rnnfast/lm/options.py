"""Everything that can be chosen about training a language model: names, defaults, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .._options import (
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    FLAG,
    NOT_NEGATIVE,
    TRAINING_CHECKS,
    Check,
    OptionError,
    TrainingOptions,
    check_options,
    one_of,
    optional,
    plain,
)

__all__ = ["FROZEN", "FitOptions", "OptionError", "resumed"]


@dataclass
class FitOptions(TrainingOptions):
    """The options of `fit`, the `rnnfast lm train` flags and the keys of its `--config` file; None is "not used" or
    "chosen for you". The defaults suit a character model of a text of a few megabytes."""

    # the text
    level: str = "char"
    min_count: int = 1
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
    # one step
    seq_length: int = 50
    # what happens on the way
    print_every: int | None = None
    sample_length: int = 200
    sample_prime: str | None = None
    sample_temperature: float = 0.8

    def validate(self) -> FitOptions:
        def require(name: str, met: bool, expected: str) -> None:
            if not met:
                raise OptionError(name, expected, getattr(self, name))

        check_options(self, _CHECKS, validates=self.val_frac != 0)
        tied = not self.tie_weights or self.embedding_size == self.hidden_size
        require("embedding_size", tied, f"the hidden size ({self.hidden_size}) for tied weights")
        wider = "bfloat16" if self.dtype == "float32" else None
        computes = self.compute_dtype in (None, self.dtype, wider)
        require("compute_dtype", computes, f"None or {self.dtype!r} where dtype is {self.dtype!r}")
        return self

    def to_dict(self) -> dict[str, Any]:
        return plain(self)

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

_TEXT: Check = ("a string", lambda v: isinstance(v, str))
_DEVICE: Check = (
    "'cpu', 'cuda' or 'cuda:N'",
    lambda v: isinstance(v, str) and re.fullmatch("cpu|cuda(:[0-9]+)?", v) is not None,
)

_CHECKS: dict[str, Check] = {
    **TRAINING_CHECKS,
    "level": one_of("char", "byte", "word"),
    "min_count": COUNT,
    "cell": one_of("lstm", "gru", "rnn"),
    "nonlinearity": one_of("tanh", "relu"),
    "hidden_size": COUNT,
    "num_layers": COUNT,
    "embedding_size": optional(COUNT),
    "dropout": BELOW_1,
    "tie_weights": FLAG,
    "dtype": one_of("float32", "float64"),
    "compute_dtype": optional(one_of("float32", "float64", "bfloat16")),
    "device": optional(_DEVICE),
    "seq_length": COUNT,
    "print_every": optional(COUNT),
    "sample_length": COUNT_OR_0,
    "sample_prime": optional(_TEXT),
    "sample_temperature": NOT_NEGATIVE,
}
