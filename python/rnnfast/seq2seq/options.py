"""Everything that can be chosen about training a Seq2Seq on pairs of texts: names, defaults, what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from .._options import (
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    FLAG,
    TRAINING_CHECKS,
    Check,
    RunOptions,
    check_options,
    one_of,
    optional,
)
from .attention import KINDS
from .data import LEVELS

__all__ = ["Seq2SeqOptions"]

_PART: Check = (
    "a number from 0 to 1",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1,
)

_CHECKS: dict[str, Check] = {
    **TRAINING_CHECKS,
    "level": one_of(*LEVELS),
    "target_level": optional(one_of(*LEVELS)),
    "min_count": COUNT,
    "share_vocabulary": FLAG,
    "cell": one_of("lstm", "gru", "rnn"),
    "nonlinearity": one_of("tanh", "relu"),
    "hidden_size": COUNT,
    "num_layers": COUNT,
    "embedding_size": optional(COUNT),
    "bidirectional": FLAG,
    "encoder_size": optional(COUNT),
    "encoder_layers": optional(COUNT),
    "attention": optional(one_of(*KINDS)),
    "attention_size": optional(COUNT),
    "bridge": FLAG,
    "dropout": BELOW_1,
    "label_smoothing": BELOW_1,
    "scheduled_sampling": _PART,
    "scheduled_sampling_steps": COUNT_OR_0,
    "print_every": optional(COUNT),
    "samples": COUNT_OR_0,
}


@dataclass
class Seq2SeqOptions(RunOptions):
    """The options of `fit`, the `rnnfast seq2seq train` flags and the keys of its `--config` file; None is "not used"
    or "chosen for you"."""

    KIND = "sequence to sequence model"
    CHECKS = _CHECKS
    FROZEN = (
        *RunOptions.FROZEN,
        *("level", "target_level", "min_count", "share_vocabulary", "cell", "nonlinearity", "hidden_size"),
        *("num_layers", "embedding_size", "bidirectional", "encoder_size", "encoder_layers", "attention"),
        *("attention_size", "bridge", "dropout"),
    )

    batch_size: int = 64
    # the texts
    level: str = "char"
    target_level: str | None = None  # as level
    min_count: int = 1
    share_vocabulary: bool = False
    # the model
    cell: str = "lstm"
    nonlinearity: str = "tanh"
    hidden_size: int = 256
    num_layers: int = 1
    embedding_size: int | None = None
    bidirectional: bool = True
    encoder_size: int | None = None
    encoder_layers: int | None = None
    attention: str | None = "general"
    attention_size: int | None = None
    bridge: bool = False
    dropout: float = 0.0
    # the loss
    label_smoothing: float = 0.0
    scheduled_sampling: float = 0.0
    scheduled_sampling_steps: int = 0  # in which it rises from 0
    # what happens on the way
    print_every: int | None = None
    samples: int = 3

    def validate(self) -> Seq2SeqOptions:
        check_options(self, self.CHECKS, validates=True)  # fit sees whether there is a validation part
        alike = not self.share_vocabulary or self.target_level in (None, self.level)
        self.require("target_level", alike, f"{self.level!r} as the sources' for a shared vocabulary")
        return self
