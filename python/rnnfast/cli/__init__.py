"""The command line. Text goes to standard output, progress and errors to standard error.

Exit codes: 0, 1 (failed), 2 (wrong use); a run that Ctrl-C stopped gives 130, as shells do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .common import Parser, UsageError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _prepare_streams()
    code = _run(list(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except OSError as e:
        # Python would complain once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            _fail("rnnfast", f"standard output: {e.strerror}", 1)
        return code or 1
    return code


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as for a daemon
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a letter must not end a training
            stream.reconfigure(errors="replace")


def _run(words: list[str]) -> int:
    try:
        if words[:1] == ["bench"]:  # it has a parser of its own
            from ..bench import main as bench

            return int(bench(words[1:]) or 0)
        args = _parser().parse_args(_with_dashes(words))
        return int(args.run(args) or 0)
    except SystemExit as e:  # argparse: --help, --version, wrong use
        return e.code if isinstance(e.code, int) else 1 if e.code else 0
    except UsageError as e:
        return _fail(f"rnnfast {e.command}" if e.command else "rnnfast", str(e), 2)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, say) has what it wanted
        return 1
    except (ValueError, RuntimeError, ArithmeticError, OSError, MemoryError, ImportError) as e:
        if os.environ.get("RNNFAST_DEBUG"):
            raise
        return _fail("rnnfast", _describe(e), 1)


def _parser() -> Parser:
    from . import classify, demo, info, lm, seq2seq

    parser = Parser(prog="rnnfast", description="Fused recurrent networks, and models on top of them.")
    parser.add_argument("--version", action="version", version=f"rnnfast {_version()}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    lm.add_commands(commands)
    seq2seq.add_commands(commands)
    classify.add_commands(commands)
    demo.add_command(commands)
    info.add_command(commands)
    commands.add_parser("bench", help="time the kernels, against PyTorch where it is installed", add_help=False)
    return parser


def _version() -> str:
    from .._version import __version__

    return __version__


def _with_dashes(words: list[str]) -> list[str]:
    """--rnn_size, as char-rnn has it, is --rnn-size."""
    out: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return out + words[i:]
        flag, equals, value = word.partition("=")
        out.append(flag.replace("_", "-") + equals + value if flag.startswith("--") else word)
    return out


def _describe(e: BaseException) -> str:
    if isinstance(e, OSError) and e.strerror:
        return f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    if isinstance(e, MemoryError):
        return f"out of memory: {e}" if str(e) else "out of memory"
    return str(e) or type(e).__name__


def _fail(who: str, message: str, code: int) -> int:
    print(f"{who}: error: {message}", file=sys.stderr)
    return code
