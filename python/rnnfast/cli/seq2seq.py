"""`rnnfast seq2seq train | translate | eval`: one sequence into another."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from .common import (
    UsageError,
    add_run_flags,
    in_command,
    note,
    options_as_flags,
    read_config,
    report,
    set_threads,
    write_config,
)
from .lm_flags import add_train_flags, option_names
from .seq2seq_flags import GROUPS

__all__ = ["add_commands"]

_PANELS = 9  # of the attention picture


def add_commands(commands: Any) -> None:
    seq2seq = commands.add_parser("seq2seq", help="one sequence into another: train on pairs, translate")
    sub = seq2seq.add_subparsers(title="commands", dest="seq2seq_command", required=True, metavar="COMMAND")
    pairs = "pairs: a line each, source and target with a tab between them; - is standard input"

    train = sub.add_parser("train", help="train on pairs", description="Train an encoder and a decoder on pairs.")
    train.add_argument("pairs", nargs="?", metavar="FILE", help=pairs)
    train.add_argument("--val", metavar="FILE", help="pairs to validate on (default: some of FILE, see --val-frac)")
    add_train_flags(train, GROUPS)
    add_run_flags(train)
    train.set_defaults(run=_train)

    translate = sub.add_parser("translate", help="targets for sources", description="Write the likeliest targets.")
    translate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    translate.add_argument("sources", nargs="?", default="-", metavar="FILE", help="a source a line (default: -)")
    add_search_flags(translate)
    add = translate.add_argument
    add("--n-best", type=int, default=1, metavar="N", help="targets for a source, a line each (default: 1)")
    add("--scores", action="store_true", help="lines are: source, target, log-probability, with tabs between them")
    add("--attention-plot", metavar="PNG", help=f"draw the attention of the first sources, up to {_PANELS}")
    add_run_flags(translate)
    translate.set_defaults(run=_translate)

    evaluate = sub.add_parser("eval", help="how good it is", description="Loss and errors on pairs.")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    evaluate.add_argument("pairs", metavar="FILE", help=f"{pairs}. All targets of a source count as right")
    add_search_flags(evaluate)
    evaluate.add_argument("--json", action="store_true", help="as JSON")
    add_run_flags(evaluate)
    evaluate.set_defaults(run=_eval)


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--beam-size", type=int, default=5, metavar="N", help="hypotheses to follow, 1 is greedy (default: 5)")
    add("--length-penalty", type=float, default=0.0, metavar="X", help="larger prefers longer targets (default: 0)")
    add("--min-length", type=int, default=0, metavar="N", help="fewest tokens of a target (default: 0)")
    add("--max-length", type=int, default=200, metavar="N", help="most tokens of a target (default: 200)")
    add("--batch-size", type=int, default=64, metavar="N", help="sources at a time (default: 64)")


# ---- train ----


def _train(args: argparse.Namespace) -> int:
    started = time.monotonic()
    from .._progress import Progress
    from ..seq2seq.data import read_pairs
    from ..seq2seq.fit import run
    from ..seq2seq.options import Seq2SeqOptions

    names, flags = option_names(GROUPS)
    given = {} if args.config is None else read_config(args.config, names)
    given |= {name: value for name, value in vars(args).items() if name in flags}
    out = _out(args)
    with options_as_flags(flags, "seq2seq train"):
        options = Seq2SeqOptions.choose(
            given, out=out, resume=args.resume, overwrite=args.overwrite and out is not None
        )
        if args.save_config is not None:
            write_config(args.save_config, options.to_dict())
        if out is None:
            return 0
        set_threads(args.threads)
        source, val = _files(args, out)
        pairs = read_pairs(Path(source))
        held_out = None if val is None else read_pairs(Path(val), "val")
        where = {"pairs": _absolute(source), "val": None if val is None else _absolute(val)}
        progress = Progress(quiet=args.quiet, every=options.print_every)
        _, result = run(
            pairs, options, val=held_out, out=out, resume=args.resume, progress=progress, started=started, source=where
        )
    again = ["-"] if source == "-" else ["--val", "-"] if val == "-" else []  # the run knows its files
    return report(
        result,
        args.quiet,
        resume=" ".join(["rnnfast seq2seq train", *again, "--out", in_command(out), "--resume"]),
        use=f"to use it:\n  rnnfast seq2seq translate {in_command(out)}",
        loss=" nats a token,",
    )


def _out(args: argparse.Namespace) -> str | None:
    """The folder of the run; None where nothing is to be trained, only --save-config to be written."""
    if args.resume and args.out is None:
        raise UsageError("argument --resume: needs --out, the folder of the run", "seq2seq train")
    if args.pairs is None and not args.resume:
        if args.save_config is None:
            raise UsageError("FILE must be given: the pairs to train on (- is standard input)", "seq2seq train")
        return None
    if args.out is not None:
        return str(args.out)
    return "rnnfast-stdin" if args.pairs == "-" else f"rnnfast-{Path(args.pairs).stem}"


def _absolute(source: str) -> str:
    return source if source == "-" else str(Path(source).absolute())


def _files(args: argparse.Namespace, out: str) -> tuple[str, str | None]:
    """The pairs to train on and those to validate on: as given, else those of the run that is resumed."""
    from .._run_folder import LAST
    from ..checkpoint import read_header

    saved = (read_header(Path(out, LAST)).get("options", {}).get("source") or {}) if args.resume else {}
    pairs, val = args.pairs or saved.get("pairs", "-"), args.val or saved.get("val")
    if args.pairs is None and pairs == "-":
        raise UsageError("FILE must be given: the run's pairs came from no file", "seq2seq train")
    if args.val is None and val == "-":
        raise UsageError("argument --val: must be given: the run's came from standard input", "seq2seq train")
    if pairs == "-" and val == "-":
        raise UsageError("argument --val: must be a file where FILE is standard input, got -", "seq2seq train")
    return pairs, val


# ---- translate and eval ----


def _search_options(args: argparse.Namespace, command: str, n_best: int = 1) -> dict[str, Any]:
    from .._check import MOST

    penalty, low, high = args.length_penalty, args.min_length, args.max_length
    checks = (
        ("--beam-size", args.beam_size, 1 <= args.beam_size <= MOST, f"from 1 to {MOST}"),
        ("--length-penalty", penalty, math.isfinite(penalty) and penalty >= 0, "a number of at least 0"),
        ("--min-length", low, 0 <= low <= MOST, f"from 0 to {MOST}"),
        ("--max-length", high, low <= high <= MOST, f"from --min-length, {low}, to {MOST}"),
        ("--batch-size", args.batch_size, args.batch_size >= 1, "at least 1"),
        ("--n-best", n_best, 1 <= n_best <= args.beam_size, f"from 1 to the beam size, {args.beam_size}"),
    )
    for flag, value, allowed, expected in checks:
        if not allowed:
            raise UsageError(f"argument {flag}: must be {expected}, got {value}", command)
    names = ("beam_size", "length_penalty", "min_length", "max_length", "batch_size")
    return {**{name: getattr(args, name) for name in names}, "n_best": n_best}


def _translate(args: argparse.Namespace) -> int:
    options = _search_options(args, "seq2seq translate", args.n_best)
    set_threads(args.threads)
    from .._pictures import check_picture
    from ..seq2seq.data import encode, read_lines
    from ..seq2seq.fit import load

    model, picture = load(args.checkpoint), args.attention_plot
    if picture is not None:
        if model.decoder.attention is None:
            raise UsageError("argument --attention-plot: the model has no attention", "seq2seq translate")
        check_picture(picture)
    assert model.tokenizers is not None
    lines = read_lines(args.sources)
    sources = encode(lines, model.tokenizers[0])
    drawn = 0 if picture is None else _PANELS  # the attention of the others need not be kept
    found = model.generate(sources[:drawn], attention=drawn > 0, **options) + model.generate(sources[drawn:], **options)
    target = model.tokenizers[1]
    for (line, _), hypotheses in zip(lines, found, strict=True):
        for h in hypotheses:
            text = target.decode(h.tokens)
            print(f"{line}\t{text}\t{h.score:.4f}" if args.scores else text)
    if picture is not None and sources:
        _draw(picture, model, sources, found)
    if picture is not None:
        note(f"the attention is in {picture}" if sources else "no sources: there is no attention to draw", args.quiet)
    return 0


def _draw(path: str, model: Any, sources: Any, found: Any) -> None:
    from ..seq2seq.plot import plot_attention

    read, say = model.tokenizers
    panels = [
        ([read.decode([i]) for i in source], [*(say.decode([i]) for i in h.tokens), "\u25a0"], h.attention)
        for source, (h, *_) in zip(sources[:_PANELS], found, strict=False)
    ]
    plot_attention(path, panels)


def _eval(args: argparse.Namespace) -> int:
    options = _search_options(args, "seq2seq eval")
    set_threads(args.threads)
    from ..seq2seq.fit import evaluate_pairs, load

    result = evaluate_pairs(load(args.checkpoint), Path(args.pairs), **options)
    if args.json:
        print(json.dumps(result))
        return 0
    low, high = (f"{100 * x:.2f}" for x in result["interval"])
    print(
        f"{result['correct']:,} of {result['sources']:,} sources right; sequence error "
        f"{100 * result['sequence_error']:.2f} % (95 %: {low} to {high}), token error "
        f"{100 * result['token_error']:.2f} %, loss {result['loss']:.4f} nats a token"
    )
    return 0
