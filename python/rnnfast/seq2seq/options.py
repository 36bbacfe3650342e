"""Everything that can be chosen about training a Seq2Seq on pairs of texts: names, defaults, what is allowed."""

from __future__ import annotations

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
    check_nonlinearity,
    check_options,
    one_of,
    optional,
)
from .attention import KINDS
from .data import LEVELS

__all__ = ["Seq2SeqOptions"]

_PART: Check = ("a number from 0 to 1", lambda v: NOT_NEGATIVE[1](v) and v <= 1)
_ATTENTION: Check = (f"None or one of {', '.join(KINDS)}", optional(one_of(*KINDS))[1])

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
    "attention": _ATTENTION,
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
        self._check_use()
        self._check_sizes()
        return self

    def _check_use(self) -> None:
        """Nothing is chosen that would do nothing."""
        counts = "word" in (self.level, self.target_level)
        self.require("min_count", self.min_count == 1 or counts, "1 where no level is 'word'")
        check_nonlinearity(self)
        scored = self.attention_size is None or self.attention == "additive"
        self.require("attention_size", scored, "None where attention is not 'additive'")
        rises = self.scheduled_sampling_steps == 0 or self.scheduled_sampling > 0
        self.require("scheduled_sampling_steps", rises, "0 without scheduled_sampling")

    def _check_sizes(self) -> None:
        """The encoder's outputs and states fit the decoder."""
        directions, hidden = 2 if self.bidirectional else 1, self.hidden_size
        even = self.encoder_size is not None or hidden % directions == 0
        self.require("hidden_size", even, "even for an encoder with two directions and no size of its own")
        width = hidden if self.encoder_size is None else directions * self.encoder_size
        alike = self.attention != "dot" or width == hidden
        self.require("attention", alike, f"another one where outputs of the encoder are {width} wide, not {hidden}")
        deep = self.bridge or self.encoder_layers in (None, self.num_layers)
        self.require("encoder_layers", deep, f"{self.num_layers}, as many as the decoder's, without a bridge")
        fits = self.bridge or width == hidden
        halves = f" in {directions} directions" if self.bidirectional else ""
        self.require("encoder_size", fits, f"such that it fits hidden_size ({hidden}){halves} without a bridge")
