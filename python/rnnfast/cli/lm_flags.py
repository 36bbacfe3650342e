"""The flags of `rnnfast lm train`. Each option of lm.options.FitOptions has one; names are char-rnn's and torch-rnn's
where theirs make sense. A flag that is not given leaves no trace in the arguments: a resumed run keeps what it had."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

from .common import seconds

__all__ = [
    "COMPUTE_DTYPE",
    "DTYPE",
    "FLAGS",
    "Groups",
    "add_train_flags",
    "choice_flag",
    "float_flag",
    "int_flag",
    "option_names",
    "time_flag",
]

Groups: TypeAlias = dict[str, list[tuple[str, str, dict[str, Any]]]]  # title: (spellings, option, details) of each flag


def add_train_flags(parser: argparse.ArgumentParser, groups: Groups | None = None) -> None:
    """The flags of the run, and those of FLAGS, or of other groups like these."""
    run = parser.add_argument_group("the run")
    run.add_argument("--out", metavar="DIR", help="where checkpoints and metrics go (default: rnnfast-NAME)")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument("--overwrite", action="store_true", help="begin anew in an --out that is not empty")
    run.add_argument("--config", metavar="JSON", help="options from a file; flags go before them")
    alone = " (without FILE: only that)" if groups is None else ""
    run.add_argument("--save-config", metavar="JSON", help=f"write all options to a file{alone}")
    for title, flags in (FLAGS if groups is None else groups).items():
        group = parser.add_argument_group(title)
        for spellings, option, details in flags:
            group.add_argument(*spellings.split(), dest=option, default=argparse.SUPPRESS, **details)


def option_names(groups: Groups | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """({each spelling without its dashes: option}, {option: its first flag})"""
    names: dict[str, str] = {}
    flags: dict[str, str] = {}
    for spellings, option, _ in (flag for group in (groups or FLAGS).values() for flag in group):
        flags.setdefault(option, spellings.split()[0])
        for name in (*spellings.split(), option):
            names[name.lstrip("-").replace("_", "-")] = option
    return names, flags


def int_flag(help: str, metavar: str = "N") -> dict[str, Any]:
    return {"type": int, "metavar": metavar, "help": help}


def float_flag(help: str) -> dict[str, Any]:
    return {"type": float, "metavar": "X", "help": help}


def time_flag(help: str) -> dict[str, Any]:
    return {"type": seconds, "metavar": "TIME", "help": help}


def choice_flag(help: str, *values: str) -> dict[str, Any]:
    return {"choices": values, "help": help}


DTYPE = ("--dtype", "dtype", choice_flag("precision (default: float32)", "float32", "float64"))
COMPUTE_DTYPE = (
    "--compute-dtype",
    "compute_dtype",
    choice_flag("what the recurrent layers' products multiply (default: dtype)", "float32", "float64", "bfloat16"),
)
FLAGS: Groups = {
    "the text": [
        ("--level", "level", choice_flag("what a token is (default: char)", "char", "byte", "word")),
        ("--min-count", "min_count", int_flag("rarer words become <unk> (default: 1)")),
        ("--val-frac", "val_frac", float_flag("part of the text, its end, to validate on (default: 0.1)")),
    ],
    "the model": [
        ("--model --cell", "cell", choice_flag("kind of network (default: lstm)", "lstm", "gru", "rnn")),
        ("--nonlinearity", "nonlinearity", choice_flag("of --model rnn (default: tanh)", "tanh", "relu")),
        ("--rnn-size --hidden-size", "hidden_size", int_flag("units of a layer (default: 128)")),
        ("--num-layers", "num_layers", int_flag("layers (default: 2)")),
        (
            "--embedding-size --wordvec-size",
            "embedding_size",
            int_flag("feed tokens as learnt vectors of this size (default: as one-hot rows)"),
        ),
        ("--dropout", "dropout", float_flag("drop this part of what flows between layers (default: 0)")),
        ("--tie-weights", "tie_weights", {"action": "store_true", "help": "output weights are the embedding's"}),
        DTYPE,
        COMPUTE_DTYPE,
        (
            "--device",
            "device",
            {"metavar": "DEVICE", "help": "cpu, cuda or cuda:N: where the model is trained (default: cpu)"},
        ),
        ("--seed", "seed", int_flag("draws the weights and the dropout (default: a fresh one)")),
    ],
    "one step": [
        ("--batch-size", "batch_size", int_flag("rows that the text is cut into (default: 50)")),
        ("--seq-length", "seq_length", int_flag("tokens of a row in a step (default: 50)")),
        ("--optimizer", "optimizer", choice_flag("default: adam", "adam", "adamw", "rmsprop", "sgd")),
        ("--learning-rate --lr", "learning_rate", float_flag("default: 0.002")),
        ("--momentum", "momentum", float_flag("of rmsprop and sgd (default: 0)")),
        ("--decay-rate", "decay_rate", float_flag("of rmsprop's mean square (default: 0.95)")),
        ("--weight-decay", "weight_decay", float_flag("default: 0, adamw 0.01")),
        ("--grad-clip", "grad_clip", float_flag("largest gradient, 0 for any (default: 5)")),
        ("--grad-clip-by", "grad_clip_by", choice_flag("what --grad-clip limits (default: norm)", "norm", "value")),
    ],
    "the learning rate over time": [
        ("--schedule", "schedule", choice_flag("default: cosine", "constant", "step", "cosine", "plateau")),
        ("--warmup", "warmup", int_flag("steps in which it rises from 0 (default: 0)")),
        ("--min-learning-rate", "min_learning_rate", float_flag("where cosine ends, plateau stops (default: 0)")),
        (
            "--learning-rate-decay --lr-decay-factor",
            "learning_rate_decay",
            float_flag("factor of step and plateau (default: 0.5)"),
        ),
        (
            "--learning-rate-decay-after",
            "learning_rate_decay_after",
            float_flag("step: epochs before the first decay (default: 1)"),
        ),
        (
            "--learning-rate-decay-every --lr-decay-every",
            "learning_rate_decay_every",
            float_flag("step: epochs between two decays (default: 1)"),
        ),
        (
            "--plateau-patience",
            "plateau_patience",
            int_flag("plateau: evaluations without a better loss before a decay (default: 2)"),
        ),
    ],
    "when to stop": [
        ("--max-epochs", "max_epochs", int_flag("passes over the text (default: 50, without another limit)")),
        ("--max-steps", "max_steps", int_flag("steps")),
        ("--max-time", "max_time", time_flag("time of training, like 90, 10m or 1h30m, resumed runs added up")),
        ("--patience --early-stop", "patience", int_flag("evaluations in a row without a better validation loss")),
    ],
    "on the way": [
        (
            "--eval-every --eval-val-every",
            "eval_every",
            int_flag("steps between evaluations (default: an epoch, 100 to 1000)"),
        ),
        ("--eval-seconds", "eval_seconds", time_flag("evaluate by the clock instead")),
        ("--save-every --checkpoint-every", "save_every", int_flag("save between evaluations too, every N steps")),
        ("--log-every", "log_every", int_flag("steps between rows of metrics.csv (default: a tenth of --eval-every)")),
        ("--print-every", "print_every", int_flag("steps between lines where there is no terminal (default: by time)")),
        ("--sample-length", "sample_length", int_flag("tokens to write at each evaluation (default: 200)")),
        ("--sample-primetext", "sample_prime", {"metavar": "TEXT", "help": "what they go on from"}),
        ("--sample-temperature", "sample_temperature", float_flag("default: 0.8")),
    ],
}
