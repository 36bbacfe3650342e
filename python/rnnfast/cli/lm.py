"""`rnnfast lm train | sample | eval`: language models."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from .common import (
    UsageError,
    add_run_flags,
    check_count,
    in_command,
    note,
    options_as_flags,
    read_config,
    report,
    set_threads,
    write_config,
)
from .lm_flags import add_train_flags, option_names

__all__ = ["add_commands"]

_UNITS = {"char": "character", "byte": "byte", "word": "word"}


def add_commands(commands: Any) -> None:
    lm = commands.add_parser("lm", help="language models: train on a text, write in its style")
    sub = lm.add_subparsers(title="commands", dest="lm_command", required=True, metavar="COMMAND")

    train = sub.add_parser("train", help="train on a text", description="Train a recurrent language model on a text.")
    train.add_argument("text", nargs="?", metavar="FILE", help="the text, UTF-8; - is standard input")
    add_train_flags(train)
    add_run_flags(train)
    train.set_defaults(run=_train)

    sample = sub.add_parser("sample", help="write text", description="Write text with a trained language model.")
    sample.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    add_sample_flags(sample)
    add_run_flags(sample)
    sample.set_defaults(run=_sample)

    evaluate = sub.add_parser("eval", help="the loss on a text", description="The loss of a language model on a text.")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    evaluate.add_argument("text", metavar="FILE", help="the text; - is standard input")
    add = evaluate.add_argument
    add("--part", choices=("all", "train", "val"), default="all", help="of the text it was trained on (default: all)")
    add("--reset-every", type=int, metavar="N", help="begin anew from the zero state every N tokens (default: never)")
    add("--batch-size", type=int, metavar="N", help="rows side by side (default: 1, or 64 with --reset-every)")
    add("--json", action="store_true", help="as JSON")
    add_run_flags(evaluate)
    evaluate.set_defaults(run=_eval)


# ---- train ----


def _train(args: argparse.Namespace) -> int:
    started = time.monotonic()
    from .._progress import Progress
    from .._run_folder import LAST
    from ..lm.fit import run
    from ..lm.options import FitOptions

    names, flags = option_names()
    given = {} if args.config is None else read_config(args.config, names)
    given |= {name: value for name, value in vars(args).items() if name in flags}
    out = _out(args)
    with options_as_flags(flags, "lm train"):
        options = FitOptions.choose(given, out=out, resume=args.resume, overwrite=args.overwrite and out is not None)
    if args.save_config is not None:
        write_config(args.save_config, options.to_dict())
    if out is None:
        return 0
    set_threads(args.threads)
    source = args.text if args.text is not None else _source_of(Path(out, LAST))
    text = _read(source, options.level)
    progress = Progress(quiet=args.quiet, every=options.print_every)
    where = absolute(source)
    _, result = run(text, options, out=out, resume=args.resume, progress=progress, started=started, source=where)
    per = "" if result.best_loss is None else f"{result.best_loss / math.log(2):.3f} bits a {_UNITS[options.level]}"
    resume = f"rnnfast lm train {in_command(source)} --out {in_command(out)} --resume"
    return report(
        result,
        args.quiet,
        resume=resume + ("\n  with the same text on standard input" if source == "-" else ""),
        use=f"to write in this style:\n  rnnfast lm sample {in_command(out)}",
        loss=f" nats, {per},",
    )


def _out(args: argparse.Namespace) -> str | None:
    """The folder of the run; None where nothing is to be trained, only --save-config to be written."""
    if args.resume and args.out is None and args.text is None:
        raise UsageError("argument --resume: needs FILE, or --out, the folder of the run", "lm train")
    if args.text is None and not args.resume:
        if args.save_config is None:
            raise UsageError("FILE must be given: the text to train on (- is standard input)", "lm train")
        return None
    if args.out is not None:
        return str(args.out)
    return "rnnfast-stdin" if args.text == "-" else f"rnnfast-{Path(args.text).stem}"


def _source_of(last: Path) -> str:
    """The text that the run was started on."""
    from ..checkpoint import read_header

    source = read_header(last).get("options", {}).get("source")
    if not source or source == "-":
        why = "came from standard input" if source else "is not a file's"
        raise UsageError(f"FILE must be given: the run's text {why}", "lm train")
    return str(source)


def absolute(source: str | None) -> str | None:
    """Where a text is, for whoever resumes the run from elsewhere."""
    return source if source in (None, "-") else str(Path(source).absolute())


# ---- sample ----


def add_sample_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--primetext", "--start-text", default="", metavar="TEXT", help="text to go on from")
    add("--primefile", metavar="FILE", help="the same, from a file; - is standard input")
    add("--length", type=int, default=500, metavar="N", help="tokens to write (default: 500)")
    add("--temperature", type=float, default=1.0, metavar="X", help="0 the likeliest, 1 as learnt (default: 1)")
    add("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="choose among the likeliest tokens whose probabilities sum to P")
    add("--num-samples", type=int, default=1, metavar="N", help="write N texts, computed side by side (default: 1)")
    add("--seed", type=int, metavar="N", help="the same text again (default: a fresh one each time)")


def check_sample_flags(args: argparse.Namespace, command: str) -> None:
    check_count("--length", args.length, 0, command)
    check_count("--num-samples", args.num_samples, 1, command)
    t, top_p = args.temperature, args.top_p
    checks = (
        ("--temperature", t, math.isfinite(t) and t >= 0, "a number of at least 0"),
        ("--top-k", args.top_k, args.top_k is None or args.top_k >= 1, "at least 1"),
        ("--top-p", top_p, top_p is None or 0 < top_p <= 1, "a number greater than 0 and at most 1"),
        ("--seed", args.seed, args.seed is None or 0 <= args.seed < 2**64, "from 0 to 2**64 - 1"),
    )
    for flag, value, allowed, expected in checks:
        if not allowed:
            raise UsageError(f"argument {flag}: must be {expected}, got {value}", command)


def _sample(args: argparse.Namespace) -> int:
    check_sample_flags(args, "lm sample")
    if args.primetext and args.primefile is not None:
        raise UsageError("argument --primefile: cannot be given together with --primetext", "lm sample")
    set_threads(args.threads)
    from ..lm.fit import load

    model = load(args.checkpoint)
    prime = args.primetext if args.primefile is None else _read(args.primefile, _level(model))
    seed = secrets.randbits(32) if args.seed is None else args.seed
    if args.seed is None:
        note(f"seed {seed}", args.quiet)
    write_samples(model, prime, seed, args)
    return 0


def write_samples(model: Any, prime: str, seed: int, args: argparse.Namespace) -> None:
    """One text as it comes, token by token; several, when they are ready. The prime text comes first."""
    from ..lm.fit import default_prime

    prompt = model.tokenizer.encode(prime or default_prime(model))
    options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "seed": seed}
    shown = prompt.tolist() if prime else []
    if args.num_samples == 1:
        tokens = model.generate(prompt, args.length, **options)
        for piece in model.tokenizer.decode_stream(itertools.chain(shown, tokens)):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    else:
        rows = model.sample(prompt, args.length, num_samples=args.num_samples, **options)
        for i, row in enumerate(rows):
            text = "".join(model.tokenizer.decode_stream(itertools.chain(shown, row.tolist())))
            sys.stdout.write(f"--- {i + 1} ---\n{text}\n")
    sys.stdout.flush()


# ---- eval ----


def _eval(args: argparse.Namespace) -> int:
    check_count("--reset-every", args.reset_every, 1, "lm eval")
    check_count("--batch-size", args.batch_size, 1, "lm eval")
    set_threads(args.threads)
    from ..lm.fit import evaluate_part, load

    model = load(args.checkpoint)
    text = _read(args.text, _level(model))
    result = evaluate_part(
        model, args.checkpoint, text, part=args.part, reset_every=args.reset_every, batch_size=args.batch_size
    )
    if not math.isfinite(result["nats"]):
        raise ValueError(f"the loss of {args.checkpoint} on this text is {result['nats']}")
    if args.json:
        print(json.dumps(result))
    else:
        loss = f"{result['nats']:.4f} nats a {_UNITS[_level(model)]}, {result['bits']:.4f} bits"
        print(f"{loss}, perplexity {result['perplexity']:.3f} ({result['tokens']:,} tokens)")
    return 0


# ---- shared ----


def _level(model: Any) -> str:
    return str(model.tokenizer.to_dict()["type"])


def _read(source: str, level: str) -> str:
    from ..lm.text import read_text

    return read_text(source, level=level)
