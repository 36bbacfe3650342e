"""What the commands share: the parser's manner, types of arguments, --config files."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .._check import MOST

__all__ = [
    "Parser", "UsageError", "add_run_flags", "check_count", "in_command", "note", "options_as_flags", "read_config",
    "report", "seconds", "set_threads", "write_config", "write_text",
]  # fmt: skip


class UsageError(Exception):
    """Wrong use of a command: exit code 2."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error and no guessing of abbreviated flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def seconds(text: str) -> float:
    """90, 90s, 10m, 1.5h, 1h30m -> seconds"""
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    unit = "s?" if re.fullmatch(number, text.strip()) else "s"  # what 1h30 means is anybody's guess
    parts = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}{unit})?", text.strip())
    if not text.strip() or parts is None:
        raise argparse.ArgumentTypeError(f"must be a time like 90, 10m or 1h30m, got {text!r}")
    hours, minutes, rest = (float(p or 0) for p in parts.groups())
    return 3600 * hours + 60 * minutes + rest


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every command has that computes something."""
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: all that are allowed)")
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes, only results and errors")


def check_count(flag: str, value: int | None, least: int, command: str = "") -> None:
    """Raise UsageError for a number of things that is below `least`, or more than there can be; None is not given."""
    if value is not None and not least <= value <= MOST:
        expected = f"at least {least}" if value < least else f"at most {MOST}"
        raise UsageError(f"argument {flag}: must be {expected}, got {value}", command)


def set_threads(threads: int | None) -> None:
    if threads is None:
        return
    check_count("--threads", threads, 1)
    import rnnfast

    rnnfast.set_num_threads(threads)


def in_command(name: str) -> str:
    """A file's name in a command that is shown: quoted, and not to be taken for a flag."""
    return shlex.quote(f"./{name}" if name.startswith("-") and name != "-" else name)


def note(text: str, quiet: bool = False) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def options_as_flags(flags: Mapping[str, str], command: str) -> Iterator[None]:
    """Errors about options name the flag; about the folder, --out."""
    from .._options import OptionError
    from .._run_folder import FolderError

    try:
        yield
    except OptionError as e:
        flag = flags.get(e.name, e.name)
        raise UsageError(f"argument {flag}: must be {e.expected}, got {e.value!r}", command) from e
    except FolderError as e:
        raise UsageError(f"argument --out: {e}", command) from e


def report(result: Any, quiet: bool, *, resume: str, use: str, loss: str) -> int:
    """How a training run ended, and the exit code. `resume`: the command that goes on with it; `use`: what to do with
    it; `loss`: what the best validation loss is of."""
    from .._progress import duration

    if result.stopped == "interrupted":
        print(f"stopped at step {result.step}; saved. To go on:\n  {resume}", file=sys.stderr)
        return 130
    why = {"patience": ", no longer improving", "time": ", the time is up"}.get(result.stopped, "")
    best = ""
    if result.best_loss is not None:
        best = f"; best validation loss {result.best_loss:.4f}{loss} at step {result.best_step}"
    note(f"done{why}: {result.step} steps in {duration(result.seconds)}{best}", quiet)
    note(use, quiet)
    return 0


def read_config(path: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The options in a JSON file. `names`: each spelling of an option (hidden_size, rnn-size) and its name."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as e:
        raise UsageError(f"argument --config: {path} must be a JSON file: {e}") from e
    if not isinstance(values, dict):
        raise UsageError(f"argument --config: {path} must hold a JSON object, got {type(values).__name__}")
    options: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key.lstrip("-").replace("_", "-"))
        if name is None:
            raise UsageError(f"argument --config: {path} has an option that does not exist: {key!r}")
        if name in options:
            raise UsageError(f"argument --config: {path} has {name} more than once, as {key!r} the last time")
        options[name] = value
    return options


def write_config(path: str, options: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(dict(options), indent=2) + "\n")


def write_text(path: str, text: str) -> None:
    """A file that is there whole or not at all."""
    from .._run_folder import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
