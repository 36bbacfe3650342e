"""The flags of `rnnfast seq2seq train`. Each option of seq2seq.options.Seq2SeqOptions has one."""

from __future__ import annotations

import argparse
from typing import Any

from .._options import TRAINING_CHECKS
from .lm_flags import COMPUTE_DTYPE, DTYPE, FLAGS, Groups, choice_flag, float_flag, int_flag

__all__ = ["GROUPS"]


def _attention(text: str) -> str | None:
    if text not in _ATTENTION:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_ATTENTION)}, got {text!r}")
    return None if text == "none" else text


def _switch(help: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": help}


def _shared(title: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The flags of a group that every training has, but for batch_size, which means something else here."""
    return [flag for flag in FLAGS[title] if flag[1] in TRAINING_CHECKS and flag[1] != "batch_size"]


_PRINT_EVERY = next(flag for flag in FLAGS["on the way"] if flag[1] == "print_every")
_LEVELS = ("char", "word", "space")
_ATTENTION = ("none", "dot", "general", "additive")

GROUPS: Groups = {
    "the texts": [
        ("--level", "level", choice_flag("what a token is; space: what spaces separate (default: char)", *_LEVELS)),
        ("--target-level", "target_level", choice_flag("of the targets (default: as --level)", *_LEVELS)),
        ("--min-count", "min_count", int_flag("of level word: rarer words become <unk> (default: 1)")),
        ("--share-vocabulary", "share_vocabulary", _switch("sources and targets are of one vocabulary (default: no)")),
        ("--val-frac", "val_frac", float_flag("part of the sources to validate on, without --val (default: 0.1)")),
    ],
    "the model": [
        ("--model --cell", "cell", choice_flag("kind of network (default: lstm)", "lstm", "gru", "rnn")),
        ("--nonlinearity", "nonlinearity", choice_flag("of --model rnn (default: tanh)", "tanh", "relu")),
        ("--rnn-size --hidden-size", "hidden_size", int_flag("units of a layer of the decoder (default: 256)")),
        ("--num-layers", "num_layers", int_flag("layers (default: 1)")),
        ("--embedding-size", "embedding_size", int_flag("learnt vectors of this size (default: one-hot rows)")),
        ("--bidirectional", "bidirectional", _switch("the encoder reads both ways (default: yes)")),
        ("--encoder-size", "encoder_size", int_flag("units of a direction (default: --rnn-size over directions)")),
        ("--encoder-layers", "encoder_layers", int_flag("default: --num-layers; another number needs --bridge")),
        (
            "--attention",
            "attention",
            {"type": _attention, "metavar": "KIND", "help": f"{', '.join(_ATTENTION)} (default: general)"},
        ),
        ("--attention-size", "attention_size", int_flag("width of additive scores (default: --rnn-size)")),
        ("--bridge", "bridge", _switch("a layer between the encoder's state and the decoder's (default: no)")),
        ("--dropout", "dropout", float_flag("drop this part of what flows between layers (default: 0)")),
        DTYPE,
        COMPUTE_DTYPE,
        ("--seed", "seed", int_flag("draws weights, dropout and batches (default: a fresh one)")),
    ],
    "one step": [
        ("--batch-size", "batch_size", int_flag("pairs, of about one length (default: 64)")),
        ("--label-smoothing", "label_smoothing", float_flag("spread this part of each target (default: 0)")),
        (
            "--scheduled-sampling",
            "scheduled_sampling",
            float_flag("part of the tokens read that are the model's own (default: 0)"),
        ),
        (
            "--scheduled-sampling-steps",
            "scheduled_sampling_steps",
            int_flag("steps in which it rises from 0 (default: 0)"),
        ),
        *_shared("one step"),
    ],
    "the learning rate over time": _shared("the learning rate over time"),
    "when to stop": _shared("when to stop"),
    "on the way": [
        *_shared("on the way"),
        _PRINT_EVERY,
        ("--samples", "samples", int_flag("translations to show (default: 3)")),
    ],
}
