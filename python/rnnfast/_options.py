"""What can be chosen about any training run: names, defaults, what is allowed, and what the trainer makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from . import _run_folder, checkpoint, optim
from ._check import MOST
from ._progress import Progress
from .schedules import KINDS, Schedule
from .train import Limits, Trainer

__all__ = [
    "BELOW_1",
    "COUNT",
    "COUNT_OR_0",
    "FLAG",
    "NOT_NEGATIVE",
    "SEED",
    "TRAINING_CHECKS",
    "Check",
    "OptionError",
    "RunOptions",
    "TrainingOptions",
    "check_frozen",
    "check_nonlinearity",
    "check_options",
    "make_trainer",
    "one_of",
    "optional",
    "plain",
]

Check = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that
Options = TypeVar("Options", bound="RunOptions")


class OptionError(ValueError):
    """An option with a value that it cannot have."""

    def __init__(self, name: str, expected: str, value: Any) -> None:
        super().__init__(f"{name} must be {expected}, got {value!r}")
        self.name, self.expected, self.value = name, expected, value


@dataclass(kw_only=True, eq=False)
class TrainingOptions:
    """The options that all models share; None is "not used" or "chosen for you"."""

    # What the steps that a run has done, or the weights, are made of, so that it cannot change half-way.
    FROZEN: ClassVar[tuple[str, ...]] = (
        *("val_frac", "seed", "dtype", "compute_dtype", "batch_size", "optimizer"),
        *("momentum", "decay_rate", "weight_decay"),
    )

    val_frac: float = 0.1
    seed: int | None = None
    dtype: str = "float32"
    compute_dtype: str | None = None
    # one step
    batch_size: int = 50
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

    def require(self, name: str, met: bool, expected: str) -> None:
        if not met:
            raise OptionError(name, expected, getattr(self, name))


@dataclass
class RunOptions(TrainingOptions):
    """What the options of the models on texts share: how a run gets them."""

    KIND: ClassVar[str]  # what is in its checkpoints
    CHECKS: ClassVar[Mapping[str, Check]]

    def validate(self: Options) -> Options:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return plain(self)

    @classmethod
    def from_dict(cls: type[Options], values: Mapping[str, Any]) -> Options:
        known = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise OptionError(name, f"left out: there is no such option (there are: {', '.join(known)})", value)
        return cls(**values)

    @classmethod
    def choose(
        cls: type[Options], given: Mapping[str, Any], *, out: str | Path | None, resume: bool, overwrite: bool
    ) -> Options:
        """The options of a run, checked; and whether its folder may be used so. A resumed run has those that it was
        started with, and over them those that are given now. Nothing is written."""
        _run_folder.check(out, resume=resume, overwrite=overwrite)
        if out is None or not resume:
            return cls.from_dict(given).validate()
        path = Path(out, _run_folder.LAST)
        _, header = checkpoint.load(path)  # whole, since only its checksum tells a damaged header
        _run_folder.check_kind(path, header, cls.KIND)
        saved = header.get("options", {})
        given = {name: value for name, value in given.items() if (name, value) != ("seed", None)}
        known = {f.name for f in fields(cls)}
        chosen = cls.from_dict({**{k: v for k, v in saved.items() if k in known}, **given}).validate()
        check_frozen(cls.FROZEN, chosen.to_dict(), saved)
        return chosen


def check_frozen(names: Iterable[str], chosen: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise OptionError for the first of these options that is not as it was in the run that is resumed."""
    for name in names:
        if name in saved and chosen[name] != saved[name]:
            raise OptionError(name, f"{saved[name]!r} as in the run that is resumed", chosen[name])


def check_options(o: TrainingOptions, checks: Mapping[str, Check], *, validates: bool) -> None:
    """Raise OptionError for the first option that has no allowed value; NumPy's numbers become Python's. `validates`:
    there is a validation part."""
    for f in fields(o):
        (expected, allowed), value = checks[f.name], getattr(o, f.name)
        o.require(f.name, allowed(value), expected)
        counts = _is_int(value) and f.name != "seed"  # a seed has 64 bits
        o.require(f.name, not counts or value <= MOST, f"at most {MOST}")
    vars(o).update(plain(o))
    computes = o.compute_dtype in (None, o.dtype, "bfloat16" if o.dtype == "float32" else None)
    o.require("compute_dtype", computes, f"None or {o.dtype!r} where dtype is {o.dtype!r}")
    lower = o.min_learning_rate <= o.learning_rate
    o.require("min_learning_rate", lower, f"at most the learning rate ({o.learning_rate})")
    if not validates:
        _check_follows_no_loss(o, "with val_frac 0: there is nothing to validate on")


def check_nonlinearity(o: Any) -> None:
    """Raise OptionError where one is chosen that would do nothing."""
    o.require("nonlinearity", o.nonlinearity == "tanh" or o.cell == "rnn", f"'tanh' for cell {o.cell!r}")


def _check_follows_no_loss(o: TrainingOptions, where: str) -> None:
    """Raise OptionError where an option needs the validation loss, which `where` says is not there."""
    o.require("patience", o.patience is None, f"None {where}")
    o.require("schedule", o.schedule != "plateau", f"another one {where}")


def plain(o: TrainingOptions) -> dict[str, Any]:
    """Names and values, NumPy's numbers as Python's."""
    return {f.name: _plain(getattr(o, f.name)) for f in fields(o)}


def _plain(v: Any) -> Any:
    kinds = ((np.bool_, bool), (np.integer, int), (np.floating, float), (np.str_, str))
    return next((python(v) for numpy, python in kinds if isinstance(v, numpy)), v)


# ---- what is allowed ----


def _is_int(v: Any) -> bool:
    return isinstance(v, int | np.integer) and not isinstance(v, bool)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float | np.integer | np.floating) and not isinstance(v, bool) and math.isfinite(v)


def one_of(*values: str) -> Check:
    return "one of " + ", ".join(values), lambda v: isinstance(v, str) and v in values


def optional(check: Check) -> Check:
    expected, allowed = check
    return expected, lambda v: v is None or allowed(v)


COUNT: Check = ("an integer of at least 1", lambda v: _is_int(v) and v >= 1)
COUNT_OR_0: Check = ("an integer of at least 0", lambda v: _is_int(v) and v >= 0)
POSITIVE: Check = ("a number greater than 0", lambda v: _is_number(v) and v > 0)
NOT_NEGATIVE: Check = ("a number of at least 0", lambda v: _is_number(v) and v >= 0)
BELOW_1: Check = ("a number of at least 0 and less than 1", lambda v: _is_number(v) and 0 <= v < 1)
FACTOR: Check = ("a number greater than 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1)
FLAG: Check = ("True or False", lambda v: isinstance(v, bool | np.bool_))
SEED: Check = ("an integer from 0 to 2**64 - 1", lambda v: _is_int(v) and 0 <= v < 2**64)

TRAINING_CHECKS: dict[str, Check] = {
    "val_frac": BELOW_1,
    "seed": optional(SEED),
    "dtype": one_of("float32", "float64"),
    "compute_dtype": optional(one_of("float32", "float64", "bfloat16")),
    "batch_size": COUNT,
    "optimizer": one_of("adam", "adamw", "rmsprop", "sgd"),
    "learning_rate": POSITIVE,
    "momentum": BELOW_1,
    "decay_rate": BELOW_1,
    "weight_decay": optional(NOT_NEGATIVE),
    "grad_clip": optional(NOT_NEGATIVE),
    "grad_clip_by": one_of("norm", "value"),
    "schedule": one_of(*KINDS),
    "warmup": COUNT_OR_0,
    "min_learning_rate": NOT_NEGATIVE,
    "learning_rate_decay": FACTOR,
    "learning_rate_decay_after": NOT_NEGATIVE,
    "learning_rate_decay_every": POSITIVE,
    "plateau_patience": COUNT_OR_0,
    "max_epochs": optional(COUNT),
    "max_steps": optional(COUNT),
    "max_time": optional(POSITIVE),
    "patience": optional(COUNT),
    "eval_every": optional(COUNT),
    "eval_seconds": optional(POSITIVE),
    "save_every": optional(COUNT),
    "log_every": optional(COUNT),
}


# ---- what the trainer makes of them ----


def make_trainer(
    task: Any,
    o: TrainingOptions,
    *,
    saved: Mapping[str, Any],
    out: str | Path | None,
    progress: Progress | None,
    keep_best: bool,
    started: float | None = None,
) -> Trainer:
    """The trainer of a task. `saved`: the options as its checkpoints have them; `keep_best`: there is a validation
    part."""
    if not keep_best:
        _check_follows_no_loss(o, "without a validation part (see val_frac)")
    return Trainer(
        task,
        _optimizer(o),
        _schedule(o),
        make_limits(o),
        clip={f"clip_{o.grad_clip_by}": float(o.grad_clip)} if o.grad_clip else None,
        out=out,
        options=dict(saved),
        progress=progress,
        started=started,
        keep_best=keep_best,
    )


def _optimizer(o: TrainingOptions) -> Any:
    rate, decay = o.learning_rate, 0.0 if o.weight_decay is None else o.weight_decay
    if o.optimizer == "adam":
        return optim.Adam(rate, weight_decay=decay)
    if o.optimizer == "adamw":
        return optim.AdamW(rate, weight_decay=0.01 if o.weight_decay is None else decay)
    if o.optimizer == "rmsprop":
        return optim.RMSprop(rate, alpha=o.decay_rate, momentum=o.momentum, weight_decay=decay)
    return optim.SGD(rate, momentum=o.momentum, weight_decay=decay)


def _schedule(o: TrainingOptions) -> Schedule:
    return Schedule(
        o.schedule,
        o.learning_rate,
        warmup=o.warmup,
        min_learning_rate=o.min_learning_rate,
        decay=o.learning_rate_decay,
        decay_after=o.learning_rate_decay_after,
        decay_every=o.learning_rate_decay_every,
        patience=o.plateau_patience,
    )


def make_limits(o: TrainingOptions) -> Limits:
    unlimited = o.max_epochs is None and o.max_steps is None and o.max_time is None
    return Limits(
        max_steps=o.max_steps,
        max_epochs=50 if unlimited else o.max_epochs,
        max_time=o.max_time,
        patience=o.patience,
        eval_every=o.eval_every,
        eval_seconds=o.eval_seconds,
        save_every=o.save_every,
        log_every=o.log_every,
    )
