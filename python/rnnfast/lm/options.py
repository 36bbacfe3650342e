"""Everything that can be chosen about training a language model: names, defaults, what is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._options import (
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    FLAG,
    NOT_NEGATIVE,
    TRAINING_CHECKS,
    Check,
    RunOptions,
    check_options,
    one_of,
    optional,
)

__all__ = ["FitOptions"]

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
    "device": optional(_DEVICE),
    "seq_length": COUNT,
    "print_every": optional(COUNT),
    "sample_length": COUNT_OR_0,
    "sample_prime": optional(_TEXT),
    "sample_temperature": NOT_NEGATIVE,
}


@dataclass
class FitOptions(RunOptions):
    """The options of `fit`, the `rnnfast lm train` flags and the keys of its `--config` file; None is "not used" or
    "chosen for you". The defaults suit a character model of a text of a few megabytes."""

    KIND = "language model"
    CHECKS = _CHECKS
    FROZEN = (
        *RunOptions.FROZEN,
        *("level", "min_count", "cell", "nonlinearity", "hidden_size", "num_layers", "embedding_size"),
        *("dropout", "tie_weights", "seq_length"),
    )

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
    device: str | None = None
    # one step
    seq_length: int = 50
    # what happens on the way
    print_every: int | None = None
    sample_length: int = 200
    sample_prime: str | None = None
    sample_temperature: float = 0.8

    def validate(self) -> FitOptions:
        check_options(self, self.CHECKS, validates=self.val_frac != 0)
        tied = not self.tie_weights or self.embedding_size == self.hidden_size
        self.require("embedding_size", tied, f"the hidden size ({self.hidden_size}) for tied weights")
        return self
