"""The flags of `rnnfast classify train`: those of the language model where they mean the same, and its own."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from .._options import TrainingOptions
from .lm_flags import COMPUTE_DTYPE, DTYPE, FLAGS, Groups, choice_flag, float_flag, int_flag

__all__ = ["CLASSIFY_FLAGS"]

_MODEL = [
    ("--model --cell", "cell", choice_flag("kind of network (default: lstm)", "lstm", "gru", "rnn")),
    ("--nonlinearity", "nonlinearity", choice_flag("of --model rnn (default: tanh)", "tanh", "relu")),
    ("--rnn-size --hidden-size", "hidden_size", int_flag("units of a layer (default: 64)")),
    ("--num-layers", "num_layers", int_flag("layers (default: 1)")),
    ("--bidirectional", "bidirectional", {"action": "store_true", "help": "read from the end too"}),
    ("--pooling", "pooling", choice_flag("what decides (default: last, the final state)", "last", "mean", "max")),
    ("--embedding-size", "embedding_size", int_flag("feed tokens as learnt vectors of this size (default: one-hot)")),
    ("--vocab-size", "vocab_size", int_flag("how many tokens there are (default: as many as the largest says)")),
    ("--dropout", "dropout", float_flag("drop this part of what flows between layers and to the output (default: 0)")),
    DTYPE,
    COMPUTE_DTYPE,
    ("--seed", "seed", int_flag("draws weights, dropout, batches and the validation part (default: a fresh one)")),
]
_DATA: list[tuple[str, str, dict[str, Any]]] = [
    (
        "--channels-first",
        "channels_first",
        {"action": argparse.BooleanOptionalAction, "help": "X in .npz is (N, C, T)"},
    ),
    ("--scale", "scale", {"action": "store_true", "help": "each channel to mean 0 and deviation 1"}),
    ("--class-weight", "class_weight", choice_flag("weigh rare classes more (default: all alike)", "balanced")),
    ("--val-frac", "val_frac", float_flag("part of the sequences to validate on (default: 0.1)")),
]
_STEP = {
    "batch_size": int_flag("sequences of a step (default: 32)"),
    "grad_clip": float_flag("largest gradient, 0 for any (default: 1)"),
    "max_epochs": int_flag("passes over the sequences (default: 50, without another limit)"),
}


_KNOWN = {f.name for f in fields(TrainingOptions)}

CLASSIFY_FLAGS: Groups = {
    "the data": _DATA,
    "the model": _MODEL,
    **{
        title: [(spellings, name, _STEP.get(name, details)) for spellings, name, details in group if name in _KNOWN]
        for title, group in FLAGS.items()
        if title not in ("the text", "the model")
    },
}
